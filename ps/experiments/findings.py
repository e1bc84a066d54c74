"""What may be said of the arms: plain sentences, with the intervals that they rest on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ps.experiments.files import Report
from ps.experiments.statistics import BOOTSTRAP_LEAST, SIGNS_LEAST, Interval, Verdict, judge
from ps.experiments.summary import Summary

Words = Callable[[Interval], str]
COST_WORDS = {"seconds": ("Seconds", "s"), "mb": ("Bytes", "MB")}


@dataclass(frozen=True)
class Finding:
    """One measure, compared over arms of one axis and condition."""

    measure: str
    sentence: str
    leader: str | None
    behind: tuple[tuple[str, str, int], ...]  # each other arm, the nearest first: how far behind, from how many pairs


def findings(group: Sequence[Summary], report: Report, condition: str = "") -> list[Finding]:
    """Who won the metric, and the seconds and bytes to the target where there is one. condition: where there are more
    than one, in the names of the measures."""
    end = f" ({condition})" if condition else ""
    found = [_of_metric(group, report, f"Last {report.metric}{end}")]
    if report.target is not None:
        for cost, (name, _) in COST_WORDS.items():
            found.append(_of_cost(group, cost, f"{name} to {target_words(report)}{end}"))
    return found


def target_words(report: Report) -> str:
    """accuracy >= 0.97"""
    return f"{report.metric} {'>=' if report.best == 'max' else '<='} {report.target:g}"


def _of_metric(group: Sequence[Summary], report: Report, measure: str) -> Finding:
    values = {one.arm: one.finals() for one in group}
    verdict = judge(values, report.best)
    if verdict is None:
        return Finding(measure, f"{measure}: nothing finite was logged under this name.", None, ())
    mean = float(np.mean([*values[verdict.leader].values()]))
    head = f"{measure}: {'highest' if report.best == 'max' else 'lowest'} for {verdict.leader}, on average {mean:.4g}."
    return _finding(measure, head, verdict, _difference)


def _of_cost(group: Sequence[Summary], cost: str, measure: str) -> Finding:
    unit = COST_WORDS[cost][1]
    values = {one.arm: one.costs(cost) for one in group}
    verdict = judge(values, "min")
    if verdict is None:
        why = "counted for no arm" if any(one.reached for one in group) else "no arm reached it"
        return Finding(measure, f"{measure}: {why}.", None, ())
    mean = math.exp(float(np.mean([*values[verdict.leader].values()])))
    leader, short = verdict.leader, [one for one in group if one.reached < len(one.runs)]
    took = f"{mean:.4g} {unit} (geometric mean)"
    head = f"{measure}: {_how_often(leader, group)}, {took}." if short else f"{measure}: fewest for {leader}, {took}."
    found = _finding(measure, head, verdict, _times)
    counts = ", ".join(f"{one.arm} in {one.reached} of {len(one.runs)} runs" for one in short)
    tail = f" Reached by {counts}; figures are of those." if short else ""
    return Finding(measure, found.sentence + tail, found.leader, found.behind)


def _how_often(leader: str, group: Sequence[Summary]) -> str:
    [own] = [one for one in group if one.arm == leader]
    others = [one.reached for one in group if one.arm != leader]
    beside = ""
    if others and own.reached >= max(others):
        beside = ", more than any other" if own.reached > max(others) else ", as many as any other"
    return f"{leader} reached it in {own.reached} of {counted(len(own.runs), 'run')}{beside}"


def _finding(measure: str, head: str, verdict: Verdict, words: Words) -> Finding:
    behind = tuple(
        (arm, "no seed with a value in both", 0) if lead is None else (arm, words(lead), lead.n)
        for arm, lead in verdict.leads.items()
    )
    return Finding(measure, f"{head} {_conclusion(verdict, behind)}", verdict.leader, behind)


def _conclusion(verdict: Verdict, behind: Sequence[tuple[str, str, int]]) -> str:
    if not behind:
        return "There is nothing to compare it with."
    if verdict.won:
        arm, words, _ = behind[0]
        return f"It won: {'next' if len(behind) > 1 else 'the other'} is {arm}, {words}."
    left = [(arm, words) for arm, words, _ in behind if arm not in verdict.beaten]
    ahead = [pair for pair in left if (lead := verdict.leads[pair[0]]) is not None and lead.high < 0]
    alike = [pair for pair in left if _has_ends(verdict.leads[pair[0]]) and pair not in ahead]
    few = [pair for pair in left if not _has_ends(verdict.leads[pair[0]])]
    said = [f"But with the seeds that both have, better is {_listed(ahead)}."] if ahead else []
    said += [f"No significant difference from {_listed(alike)}."] if alike else []
    said += [f"Too few pairs to say anything of {_listed(few)}."] if few else []
    said += [f"Better than {', '.join(verdict.beaten)}."] if verdict.beaten else []
    return " ".join(said)


def _listed(arms: Sequence[tuple[str, str]]) -> str:
    """The nearest with how far behind, the others by name: the table has the rest."""
    (near, words), *others = arms
    return ", ".join([f"{near} ({words})", *(arm for arm, _ in others)])


def _has_ends(lead: Interval | None) -> bool:
    return lead is not None and not math.isnan(lead.low)


def counted(n: int, what: str) -> str:
    """1 pair, 2 pairs"""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def caution(found: Sequence[Finding]) -> str:
    """How the arms were compared, and how far so many pairs of seeds carry; nothing where none were."""
    pairs = [n for finding in found for _, _, n in finding.behind if n]
    if not pairs:
        return ""
    least, most = min(pairs), max(pairs)
    count = counted(most, "pair") if least == most else f"{least} to {most} pairs"
    head = f"Arms are compared seed by seed ({count})"
    if most == 1:
        return f"{head}. From one seed nothing can be concluded: 3 are the least, 6 are better."
    drawn = "by the bootstrap of the studentised mean difference, which supposes no distribution"
    drawn += " (by Student's t where most differences are about equal)"
    text = "by Student's t of the paired differences, which supposes that they are normally distributed"
    few = " Without that, no test reaches 95 % with fewer than 6 pairs: take small leads with care."
    how = drawn if least >= BOOTSTRAP_LEAST else text
    if least < BOOTSTRAP_LEAST <= most:
        how = f"{drawn}; below {BOOTSTRAP_LEAST} pairs {text}"
    each = "Each interval stands for one comparison; an arm has won when all of its comparisons hold."
    return f"{head}, {how}.{few if least < SIGNS_LEAST else ''} {each}"


def _difference(lead: Interval) -> str:
    return f"{lead.mean:.3g} worse{_range(lead.low, lead.high)}"


def _times(lead: Interval) -> str:
    low, high = (math.exp(end) for end in (lead.low, lead.high))
    return f"{math.exp(lead.mean):.3g} times as much{_range(low, high)}"


def _range(low: float, high: float) -> str:
    return ", no interval" if math.isnan(low) else f", 95 % interval {low:.3g} to {high:.3g}"
