"""Figures of a report. Each takes arms of one time axis, and gives None where there is nothing to draw."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from ps.experiments.cells import Settings, arms, spelled
from ps.experiments.files import Best
from ps.experiments.findings import target_words
from ps.experiments.measures import COSTS, Spent, curve, spent, staleness
from ps.experiments.results import AXES, Results
from ps.experiments.statistics import Curve, band
from ps.experiments.style import WIDTH_IN, Picture, line_style, picture, styled
from ps.experiments.summary import Spread, Summary
from ps.metrics import value_of

LINES_MAX = 7  # arms in one figure of lines
MARKS = 8  # markers along a line
HIDDEN = 0.1  # of the values, the worst: outside the figure of curves
GAP = 0.7  # between the bars of two arms, in bars
COST_LABELS = {"seconds": "seconds ({axis})", "mb": "MB pushed and pulled", "commits": "updates of a slice"}
PARTS = (  # of a step: name, label, grey or colour, hatch
    ("compute_s", "computes", "#0072B2", ""),
    ("gate_s", "waits for others", "#E69F00", "////"),
    ("rest_s", "the rest: exchange", "#DDDDDD", "...."),
)


Kind = Literal["curves", "staleness", "time", "speedup", "map"]
_NAMED = re.compile(rf"({'|'.join(get_args(Kind))})-({'|'.join(AXES)})(-\d+)?(-part\d+)?")


def named(kind: Kind, tag: str) -> str:
    """The name of a figure. tag: its axis, and what tells it from others of this axis."""
    name = f"{kind}-{tag}"
    assert is_named(name), name
    return name


def is_named(name: str) -> bool:
    """Whether `named` may have given it."""
    return _NAMED.fullmatch(name) is not None


def pictures(group: Sequence[Summary], results: Results, tag: str) -> list[Picture]:
    """Figures of arms of one axis that are compared with each other. tag: of this group, in the names of files."""
    found: list[Picture | None] = []
    size = math.ceil(len(group) / math.ceil(len(group) / LINES_MAX))  # figures of about as many lines each
    for part, first in enumerate(range(0, len(group), size)):
        some, end = group[first : first + size], f"-part{part + 1}" if len(group) > size else ""
        found += [
            curves(some, results, named("curves", tag + end)),
            stalenesses(some, results, named("staleness", tag + end)),
        ]
    return [one for one in (*found, times(group, named("time", tag))) if one is not None]


def overviews(group: Sequence[Summary], results: Results) -> list[Picture]:
    """Figures over all arms of one axis."""
    speed = speedup(group, results, named("speedup", group[0].axis))
    return [*([] if speed is None else [speed]), *maps(group, results)]


def curves(group: Sequence[Summary], results: Results, name: str) -> Picture | None:
    """The metric over seconds, bytes and updates: median and range over seeds."""
    from matplotlib.figure import Figure

    report, axis = results.experiment.report, group[0].axis
    drawn = {one.arm: {cost: _curves(one, report.metric, cost) for cost in COSTS} for one in group}
    if not any(by_cost["seconds"] for by_cost in drawn.values()):
        return None
    with styled(name):
        figure = Figure(figsize=(WIDTH_IN, 2.4), layout="constrained")
        panels = figure.subplots(1, len(COSTS), sharey=True)
        for panel, cost in zip(panels, COSTS, strict=True):
            for arm, by_cost in drawn.items():
                if by_cost[cost]:
                    _draw_band(panel, by_cost[cost], results.arms.index(arm), arm)
            if report.target is not None:
                panel.axhline(report.target, color="0.35", linewidth=0.8, linestyle=(0, (1, 1)))
            panel.set_xlabel(COST_LABELS[cost].format(axis=axis))
            panel.set_xlim(left=0)
        panels[0].set_ylabel(report.metric)
        panels[0].set_ylim(**_shown(drawn, report.best))
        _legend(figure, panels[0], 4)
        dotted = "" if report.target is None else f" Dotted: {target_words(report)}."
        caption = (
            f"Line: median over seeds; band: lowest to highest.{dotted} A run that has ended stays at its last value. "
            "The worst tenth of the values lies outside."
        )
        return picture(figure, name, f"{report.metric} over time, bytes and updates", caption)


def _shown(drawn: Mapping[str, Mapping[str, Sequence[Curve]]], best: Best) -> dict[str, float]:
    """Where the axis of the metric begins: its first values are far from all that matters."""
    value_N = np.concatenate([value_N for by_cost in drawn.values() for _, value_N in by_cost["seconds"]])
    if best == "max":
        return {"bottom": float(np.quantile(value_N, HIDDEN))}
    return {"top": float(np.quantile(value_N, 1 - HIDDEN))}


def _curves(summary: Summary, metric: str, cost: str) -> list[Curve]:
    found = [curve(run.points.of(metric), cost) for run in summary.runs if run.points is not None]
    return [one for one in found if len(one[0])]


def _draw_band(panel: Any, seeds: Sequence[Curve], place: int, label: str) -> None:
    x_N, low_N, median_N, high_N = band(seeds)
    style, every = line_style(place), max(1, len(x_N) // MARKS)
    first = place * every // LINES_MAX % every  # the markers of arms that are alike do not hide each other
    panel.plot(x_N, median_N, label=label, markevery=(first, every), drawstyle="steps-post", **style)
    if len(seeds) > 1:
        panel.fill_between(x_N, low_N, high_N, step="post", color=style["color"], alpha=0.18, linewidth=0)


def stalenesses(group: Sequence[Summary], results: Results, name: str) -> Picture | None:
    """Share of commits by their staleness, of all runs of an arm."""
    from matplotlib.figure import Figure

    by_arm = {one.arm: staleness(one.runs) for one in group}
    found = {arm: histogram for arm, histogram in by_arm.items() if histogram is not None}
    if not found:
        return None
    with styled(name):
        figure = Figure(figsize=(WIDTH_IN / 2, 2.4), layout="constrained")
        panel = figure.subplots()
        for arm, histogram in found.items():
            bucket_N, count_N = np.array(histogram.buckets).T
            stale_N = np.array([value_of(int(bucket)) for bucket in bucket_N])
            panel.plot(stale_N, count_N / histogram.n, label=arm, **line_style(results.arms.index(arm)))
        panel.set_xlabel("staleness: commits between read and apply")
        panel.set_ylabel("share of pushes")
        panel.set_ylim(bottom=0)
        _legend(figure, panel, 2)
        return picture(
            figure, name, "Staleness", "Over all pushes of all seeds; a point for each staleness that occurred."
        )


def times(group: Sequence[Summary], name: str) -> Picture | None:
    """Where a step of each worker goes."""
    from matplotlib.figure import Figure

    rows = [row for one in group for row in _mean_steps(one)]
    if not rows:
        return None
    with styled(name):
        at_N = np.arange(len(rows)) + GAP * np.cumsum([first for first, *_ in rows])
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.17 * at_N[-1]), layout="constrained")
        panel = figure.subplots()
        left_N = np.zeros(len(rows))
        for part_name, label, colour, hatch in PARTS:
            width_N = np.array([means[part_name] for *_, means in rows])
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "0.25", "linewidth": 0.4}
            panel.barh(at_N, width_N, left=left_N, label=label, height=0.78, **look)
            left_N = left_N + width_N
        panel.set_yticks(at_N, [label for _, label, _ in rows])
        panel.set_ylim(at_N[-1] + GAP, at_N[0] - GAP)
        panel.grid(axis="y", visible=False)
        panel.tick_params(axis="y", length=0)
        panel.set_xlabel(f"seconds of a step ({group[0].axis})")
        panel.set_ylabel("arm and worker")
        _legend(figure, panel, 3)
        caption = (
            "Mean over seeds. Waits for others: a server held the worker's pull back for another worker. The rest is "
            "what remains of the time of a step: wire, encoding, applying. A step is from tick to tick."
        )
        return picture(figure, name, "Where the time of a step goes", caption)


def _mean_steps(summary: Summary) -> list[tuple[bool, str, dict[str, float]]]:
    """Of each worker: whether it is the arm's first, its label, and seconds by part, on average over the runs."""
    by_rank: dict[int, list[Spent]] = defaultdict(list)
    for run in summary.runs:
        for rank, part in spent(run).items():
            by_rank[rank].append(part)
    return [
        (
            rank == min(by_rank),
            f"{summary.arm}   {rank}" if rank == min(by_rank) else str(rank),
            {name: float(np.mean([getattr(part, name) for part in parts])) for name, *_ in PARTS},
        )
        for rank, parts in sorted(by_rank.items())
    ]


def speedup(group: Sequence[Summary], results: Results, name: str) -> Picture | None:
    """Steps per second of all workers, where arms differ by their number."""
    from matplotlib.figure import Figure

    lines = _rates(group, results)
    if not lines:
        return None
    with styled(name):
        figure = Figure(figsize=(WIDTH_IN / 2, 2.6), layout="constrained")
        panel = figure.subplots()
        for place, (label, by_workers) in enumerate(lines.items()):
            workers_N = np.array(list(by_workers))
            rate_3N = np.array([(rate.low, rate.median, rate.high) for rate in by_workers.values()]).T
            low_N, median_N, high_N = rate_3N * workers_N[0] / rate_3N[1, 0]
            style = line_style(place)
            panel.plot(workers_N, median_N, label=label, **style)
            panel.fill_between(workers_N, low_N, high_N, color=style["color"], alpha=0.18, linewidth=0)
        counts = sorted({workers for by_workers in lines.values() for workers in by_workers})
        panel.plot(counts, counts, color="0.35", linewidth=0.8, linestyle=(0, (1, 1)), label="ideal")
        panel.set_xticks(counts)
        panel.set_xlabel("workers")
        panel.set_ylabel(f"speed-up ({group[0].axis})")
        _legend(figure, panel, 2)
        caption = (
            "Steps per second of all workers, in units of one worker's where there are fewest. Line: median; band: "
            "lowest to highest over seeds."
        )
        return picture(figure, name, "Speed-up over workers", caption)


def _rates(group: Sequence[Summary], results: Results) -> dict[str, dict[int, Spread]]:
    """Steps per second by number of workers, for arms that are alike but for it."""
    meant, grid = arms(results.experiment), results.experiment.grid
    lines: dict[str, dict[int, Spread]] = defaultdict(dict)
    for one in group:
        arm, settings = meant[one.arm]
        if "workers" in settings:
            others = {n: v for n, v in settings.items() if n != "workers" and len(grid.get(n, ())) > 1}
            label = ", ".join(filter(None, (arm.name, *(spelled(n, v) for n, v in others.items()))))
            lines[label or "measured"][len(one.runs[0].outcome.clocks)] = one.spread("steps_per_s")
    return {label: dict(sorted(found.items())) for label, found in lines.items() if len(found) > 1}


def maps(group: Sequence[Summary], results: Results) -> list[Picture]:
    """The last value of the metric over two settings, where the grid varies two: a map for each arm of `compare`."""
    varied = [name for name, values in results.experiment.grid.items() if len(values) > 1]
    if len(varied) != 2:
        return []
    by_base: dict[str, list[tuple[Settings, float]]] = defaultdict(list)
    base = arms(results.experiment)
    for one in group:
        arm, settings = base[one.arm]
        by_base[arm.name].append((settings, one.spread("final").median))
    return [_map(cells, varied, arm, place, group, results) for place, (arm, cells) in enumerate(by_base.items())]


def _map(
    cells: Sequence[tuple[Settings, float]],
    varied: Sequence[str],
    arm: str,
    place: int,
    group: Sequence[Summary],
    results: Results,
) -> Picture:
    from matplotlib.figure import Figure

    rows, columns = (results.experiment.grid[name] for name in varied)
    value_RC = np.full((len(rows), len(columns)), np.nan)
    for settings, value in cells:
        value_RC[rows.index(settings[varied[0]]), columns.index(settings[varied[1]])] = value
    name = named("map", group[0].axis + (f"-{place + 1}" if place else ""))
    metric = results.experiment.report.metric
    with styled(name):
        figure = Figure(figsize=(1.6 + 0.75 * len(columns), 1.1 + 0.4 * len(rows)), layout="constrained")
        panel = figure.subplots()
        image = panel.imshow(value_RC, cmap="cividis", aspect="auto")
        middle = (np.nanmin(value_RC) + np.nanmax(value_RC)) / 2 if np.isfinite(value_RC).any() else 0.0
        for (row, column), value in np.ndenumerate(value_RC):
            text = f"{value:.4g}" if np.isfinite(value) else "none"
            colour = "white" if value < middle else "black"
            panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
        panel.set_xticks(range(len(columns)), [str(value) for value in columns])
        panel.set_yticks(range(len(rows)), [str(value) for value in rows])
        panel.set_xlabel(varied[1])
        panel.set_ylabel(varied[0])
        panel.grid(visible=False)
        figure.colorbar(image, label=f"last {metric}")
        of_arm = f" of {arm}" if arm else ""
        return picture(figure, name, f"Last {metric}{of_arm} over {' and '.join(varied)}", "Median over seeds.")


def _legend(figure: Any, panel: Any, columns: int) -> None:
    handles, labels = panel.get_legend_handles_labels()
    columns = min(columns, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.2)
