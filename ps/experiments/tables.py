"""Tables of a report: rows of text, which pages and LaTeX show alike; and the summary as numbers, for CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ps.experiments.cells import Settings, product
from ps.experiments.files import Tune
from ps.experiments.findings import Finding, target_words
from ps.experiments.measures import COSTS, network_mb, waited_for
from ps.experiments.results import Results
from ps.experiments.summary import Spread, Summary, by_condition, choices, settings_text
from ps.experiments.sweep import score

Row = tuple[str, ...]
COST_HEADS = {"seconds": "s to target", "mb": "MB to target", "commits": "updates to target"}
SPREADS = ("final", "best", "step_s", "steps_per_s", "moved_gb", "epoch_s")


@dataclass(frozen=True)
class Table:
    """The first column names the rows, the others are as long."""

    title: str
    head: Row
    rows: tuple[Row, ...]
    note: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.head) for row in self.rows)


def shown(spread: Spread) -> str:
    """The median, and the range where there are several seeds."""
    if spread.n == 0:
        return "–"
    if spread.n == 1 or spread.low == spread.high:
        return f"{spread.median:.4g}"
    return f"{spread.median:.4g} [{spread.low:.4g}, {spread.high:.4g}]"


def summary_table(summaries: Sequence[Summary], results: Results) -> Table:
    """A row for each arm: what it came to and what it took."""
    report, seeds = results.experiment.report, len(results.experiment.seeds)
    head = ["arm", "time", "runs", f"last {report.metric}", f"best {report.metric}"]
    head += [] if report.target is None else ["reached", *COST_HEADS.values()]
    epochs = any(one.spread("epoch_s").n for one in summaries)
    head += ["s per step", *(["s per epoch"] if epochs else []), "GB moved", "restarts"]
    head += ["tuned"] if results.experiment.tune is not None else []
    rows = []
    for one in summaries:
        failed = f", {one.failed} failed" if one.failed else ""
        runs = f"{len(one.runs)} of {seeds}{failed}{f', {one.diverged} diverged' if one.diverged else ''}"
        row = [one.arm, one.axis, runs, shown(one.spread("final")), shown(one.spread("best"))]
        if report.target is not None:
            costs = [shown(one.to_target(cost)) if one.reached else "not reached" for cost in COSTS]
            row += [f"{one.reached} of {len(one.runs)}", *costs]
        row += [shown(one.spread("step_s")), *([shown(one.spread("epoch_s"))] if epochs else [])]
        row += [shown(one.spread("moved_gb")), str(one.restarts)]
        row += [settings_text(one.tuned)] if results.experiment.tune is not None else []
        rows.append(tuple(row))
    note = "Median over seeds [lowest, highest]."
    note += (
        f" Target: {target_words(report)}; what it took, over the runs that reached it."
        if report.target is not None
        else ""
    )
    if (tune := results.experiment.tune) is not None:
        tried = len(list(product(tune.grid)))
        note += f" Tuned: each arm's choice out of {tried}, by {tune.metric} ({tune.best}), with seeds of its own."
    return Table("Summary", tuple(head), tuple(rows), note)


def condition_table(summaries: Sequence[Summary], results: Results) -> Table | None:
    """Of one axis: a row for each choice, a column for each condition; None where no choice was run under two."""
    report, names = results.experiment.report, choices(results.experiment)
    conditions = by_condition(summaries, results.experiment)
    rows: dict[str, dict[str, str]] = {}
    for condition, group in conditions.items():
        for one in group:
            reached = f" ({one.reached} of {len(one.runs)})" if 0 < one.reached < len(one.runs) else ""
            took = shown(one.to_target("seconds")) + reached if one.reached else "not reached"
            rows.setdefault(names[one.arm], {})[condition] = (
                shown(one.spread("final")) if report.target is None else took
            )
    if len(conditions) < 2 or all(len(found) < 2 for found in rows.values()):
        return None
    cells = tuple((name, *(found.get(condition, "–") for condition in conditions)) for name, found in rows.items())
    what = f"Last {report.metric}" if report.target is None else f"Seconds to {target_words(report)}"
    title = f"{what}, by condition ({summaries[0].axis} time)"
    head = (condition or "otherwise" for condition in conditions)
    return Table(title, ("arm", *head), cells, "Median over seeds [lowest, highest].")


def summary_csv(summaries: Sequence[Summary]) -> str:
    """The same as numbers of full precision; empty where there is none."""
    names = [*SPREADS, *(f"{cost}_to_target" for cost in COSTS)]
    head = ["arm", "axis", "links", "runs", "failed", "diverged", "reached", "restarts", "tuned"]
    head += [f"{name}_{part}" for name in names for part in ("median", "low", "high")]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(head)
    for one in summaries:
        counts = (len(one.runs), one.failed, one.diverged, one.reached, one.restarts)
        spreads = [*(one.spread(name) for name in SPREADS), *(one.to_target(cost) for cost in COSTS)]
        numbers = [number for spread in spreads for number in (spread.median, spread.low, spread.high)]
        tuned = json.dumps(one.tuned, sort_keys=True)
        rows.writerow([one.arm, one.axis, one.links, *counts, tuned, *("" if math.isnan(n) else n for n in numbers)])
    return text.getvalue()


def tuning_table(results: Results) -> Table | None:
    """What tuning has found: a row for each arm, a column for each setting; None without any."""
    found: dict[str, dict[str, list[float]]] = {}
    if (tune := results.experiment.tune) is None:
        return None
    for run in results.runs:
        if run.cell.phase == "tune":
            values = [] if run.points is None or run.problem else run.points.of(tune.metric).value.tolist()
            key = settings_text(run.cell.tuned)
            found.setdefault(run.cell.arm, {}).setdefault(key, []).append(score(values, tune.best))
    if not found:
        return None
    columns = [settings_text(settings) for settings in product(tune.grid)]
    rows, sign = [], 1 if tune.best == "max" else -1
    for arm, tried in found.items():
        whole = {name: float(np.mean(scores)) for name, scores in tried.items() if len(scores) == len(tune.seeds)}
        choice = settings_text(results.chosen[arm]) if arm in results.chosen else None
        shown_ = {name: f"{sign * mean:.4g}" for name, mean in whole.items() if math.isfinite(mean)}
        rows.append((arm, *(shown_.get(name, "–") + " *" * (name == choice) for name in columns)))
    note = f"Best {tune.metric} of a run, mean over tuning seeds; * is what the arm has chosen."
    edge = [arm for arm in found if arm in results.chosen and _at_the_edge(results.chosen[arm], tune)]
    note += f" At the edge of the grid, so a wider one may hold a better setting: {'; '.join(edge)}." if edge else ""
    return Table("Tuning", ("arm", *columns), tuple(rows), note)


def _at_the_edge(settings: Settings, tune: Tune) -> bool:
    """Whether any of them is the least or the largest of several numbers that were tried."""
    for name, values in tune.grid.items():
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) == len(values) > 2 and settings[name] in (min(numbers), max(numbers)):
            return True
    return False


def finding_table(finding: Finding) -> Table:
    """How far each arm is behind the leader."""
    rows = tuple((arm, words, str(pairs)) for arm, words, pairs in finding.behind)
    return Table(f"{finding.measure}: behind {finding.leader}", ("arm", "compared with the leader", "pairs"), rows)


def failure_table(results: Results) -> Table:
    """Cells that ended badly, or have begun and not ended."""
    why = [(run.cell, run.problem or "") for run in results.failures]
    why += [(cell, f"no outcome; last it said: {said or 'nothing'}") for cell, said in results.begun]
    rows = tuple((cell.arm, cell.phase, str(cell.seed), f"cells/{cell.id}", text) for cell, text in why)
    head = ("arm", "phase", "seed", "folder", "why")
    return Table("Failed and unfinished cells", head, rows, "They count in nothing above.")


def waiting_table(summaries: Sequence[Summary]) -> Table | None:
    """Who waited for whom, mean over the runs; None where nobody did."""
    waits = {one.arm: [waited_for(run) for run in one.runs] for one in summaries}
    others = sorted({to for found in waits.values() for run in found for by_other in run.values() for to in by_other})
    rows = []
    for arm, found in waits.items():
        for worker in sorted({worker for run in found for worker in run}):
            means = [np.mean([run.get(worker, {}).get(other, 0.0) for run in found]) for other in others]
            rows.append((arm, str(worker), *(f"{mean:.3g}" for mean in means)))
    head = ("arm", "worker", *(f"for {other}" if other >= 0 else "for others" for other in others))
    note = "Mean over runs. For itself: its own push was being applied."
    return (
        Table("Seconds that servers held a worker's pulls back, and for whom", head, tuple(rows), note)
        if rows
        else None
    )


def resource_table(summaries: Sequence[Summary]) -> Table | None:
    """CPU, memory and network of each process, medians over runs; None where nothing was measured."""
    rows = []
    for one in summaries:
        measured = [{peer.replace(":", " "): snapshot for peer, snapshot in run.peers.items()} for run in one.runs]
        names = {*(name for found in measured for name in found)}
        for name in sorted(names | {name for run in one.runs for name in run.outcome.processes}):
            uses = [run.outcome.processes[name] for run in one.runs if name in run.outcome.processes]
            peers = [found[name] for found in measured if name in found]
            columns = (
                [use.cpu_s for use in uses],
                [use.peak_mb for use in uses],
                [network_mb(peer, "sent") for peer in peers],
                [network_mb(peer, "received") for peer in peers],
            )
            rows.append((one.arm, name, *(f"{np.median(column):.4g}" if column else "–" for column in columns)))
    head = ("arm", "process", "CPU s", "peak MB", "sent MB", "received MB")
    return Table("Processes", head, tuple(rows), "Medians over runs.") if rows else None


def environment_table(environment: Mapping[str, object]) -> Table:
    """As the sweep wrote it."""
    rows = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in environment.items())
    return Table("Where it ran", ("what", "value"), tuple(rows))


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def latex(table: Table) -> str:
    """A table environment for the package booktabs."""
    lines = [[_for_latex(text) for text in row] for row in (table.head, *table.rows)]
    head, *rows = [" & ".join(line) + r" \\" for line in lines]
    columns = "l" * len(table.head)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_for_latex(table.note)}}}",
            r"\end{table}",
            "",
        ]
    )


def _for_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def markdown(table: Table) -> str:
    """A table of GitHub's kind, a line for each row: of a text of several lines the last, as of a traceback."""
    rows = [table.head, ("---",) * len(table.head), *table.rows]
    return "\n".join(f"| {' | '.join(_for_markdown(text) for text in row)} |" for row in rows)


def _for_markdown(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace("|", r"\|") if lines else ""
