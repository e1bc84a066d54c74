"""The runs of each arm taken together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ps.experiments.cells import Settings, arms, spelled
from ps.experiments.files import Experiment
from ps.experiments.measures import Measured, measure
from ps.experiments.results import AXES, Results, Run

AXIS_WORDS = {
    "virtual": "virtual time: computed, not measured; the same in every repetition",
    "emulated": "emulated time: measured, with compute or links that were made slower on purpose",
    "wall": "wall-clock time: measured",
}
CONDITIONS = ("workers", "compute_s", "stragglers", "rate_mbit", "delay_ms")


@dataclass(frozen=True)
class Spread:
    """Of one measure over the seeds of an arm; NaN where there is none."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """Of what is there and finite."""
        found = [value for value in values if value is not None and math.isfinite(value)]
        if not found:
            return cls(math.nan, math.nan, math.nan, 0)
        return cls(float(np.median(found)), min(found), max(found), len(found))


@dataclass(frozen=True)
class Summary:
    """One arm on one time axis."""

    arm: str
    axis: str
    links: str  # how they were made: `links` of its outcomes
    runs: tuple[Run, ...]  # final, ended well
    measured: tuple[Measured, ...]  # of each run
    failed: int  # final cells
    tuned: Settings  # what the arm has chosen for itself

    @property
    def reached(self) -> int:
        """Runs that came to the target."""
        return sum(one.reached is not None for one in self.measured)

    @property
    def diverged(self) -> int:
        """Runs whose last value is no number."""
        return sum(one.final is not None and not math.isfinite(one.final) for one in self.measured)

    @property
    def restarts(self) -> int:
        """Of workers, over all runs."""
        return sum(count for run in self.runs for count in run.outcome.restarts.values())

    def spread(self, name: str) -> Spread:
        """Of a field of `Measured`."""
        return Spread.of(getattr(one, name) for one in self.measured)

    def to_target(self, cost: str) -> Spread:
        """Of the runs that reached it."""
        return Spread.of(one.reached[cost] for one in self.measured if one.reached is not None)

    def finals(self) -> dict[int, float]:
        """By seed: the last values that are numbers."""
        return self._by_seed([one.final for one in self.measured])

    def costs(self, cost: str) -> dict[int, float]:
        """By seed, of those that reached the target: the logarithm of what it took, so that differences are ratios.

        It is what one step takes at least: a run that is there in its first clock has taken 0 s.
        """
        took = [0.0 if one.reached is None else max(one.reached[cost], one.least[cost]) for one in self.measured]
        return self._by_seed([math.log(value) if value > 0 else None for value in took])

    def _by_seed(self, values: Sequence[float | None]) -> dict[int, float]:
        pairs = zip(self.runs, values, strict=True)
        return {run.cell.seed: value for run, value in pairs if value is not None and math.isfinite(value)}


def summarize(results: Results) -> list[Summary]:
    """An entry for each arm and axis, axes in the order of AXES; arms of which nothing has ended well are not there."""
    found: list[Summary] = []
    report = results.experiment.report
    for axis in AXES:
        for arm in results.arms:
            good = (run for run in results.final(arm) if run.problem is None)
            runs = tuple(run for run in good if run.axis == axis)
            if runs:
                links = ", ".join(sorted({run.outcome.links for run in runs}))
                measured = tuple(measure(run, report) for run in runs)
                failed = sum(run.problem is not None for run in results.final(arm))
                found.append(Summary(arm, axis, links, runs, measured, failed, runs[0].cell.tuned))
    return found


def by_axis(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """They are never compared across these."""
    found: dict[str, list[Summary]] = {}
    for one in summaries:
        found.setdefault(one.axis, []).append(one)
    return found


def by_condition(summaries: Sequence[Summary], experiment: Experiment) -> dict[str, list[Summary]]:
    """Arms of one axis under the same conditions: machines, network and stragglers are no choice, so arms are compared
    where these are alike. By what tells the conditions apart; "" where all are alike."""
    settings = {name: own for name, (_, own) in arms(experiment).items()}
    found: dict[str, list[Summary]] = {}
    for one in summaries:
        own = {n: v for n, v in settings[one.arm].items() if n in CONDITIONS}
        differ = {n: v for n, v in own.items() if any(other.get(n) != v for other in settings.values())}
        found.setdefault(settings_text(differ), []).append(one)
    return found


def choices(experiment: Experiment) -> dict[str, str]:
    """By arm: what it is without its conditions, so that arms that differ in these alone have one name."""
    varied = {name for name, values in experiment.grid.items() if len(values) > 1} - set(CONDITIONS)
    return {
        name: ", ".join(filter(None, [arm.name, *(spelled(n, own[n]) for n in experiment.grid if n in varied)]))
        or experiment.name
        for name, (arm, own) in arms(experiment).items()
    }


def settings_text(settings: Settings) -> str:
    """In one cell of a table."""
    return ", ".join(value if "=" in (value := spelled(n, v)) else f"{n}={value}" for n, v in settings.items())
