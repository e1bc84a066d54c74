"""An experiment without payload: what a clock of each arm takes, by a profile of its script."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ps.config import RunConfig
from ps.errors import ConfigError
from ps.experiments.cells import Cell, untuned_cells
from ps.experiments.files import Experiment
from ps.experiments.tables import Table
from ps.experiments.virtual import network_of
from ps.predict.profile import Codec, Measured
from ps.sim.network import Network
from ps.sim.scale import Outcome, keyspace_of, simulate

WORKERS_MAX = 64  # with payload: beyond, one process and one core are not enough
CLOCKS = 100


@dataclass(frozen=True)
class Predicted:
    """Of one arm. Clocks are those of every worker; commits those of a slice, on average.

    step_bytes: on the wire both ways, of one worker in one clock, headers too. waited_for: the worker that others were
    kept waiting for the longest, None where nobody was.
    """

    arm: str
    clock_s: float
    clock_p95_s: float
    commits_per_s: float
    step_bytes: float
    staleness: float
    staleness_max: int
    waited_for: int | None


def predict(arm: str, config: RunConfig, profile: Measured, network: Network, clocks: int) -> Predicted:
    """Simulates so many clocks of every worker. network: links alone; what work costs is the profile's."""
    steps = profile.steps(config)
    outcome = simulate(config, steps, profile.costs.on(network), clocks, config.seed or 0)
    clock_CW = np.diff(outcome.end_CW, axis=0)
    commits, stale = sum(outcome.staleness.values()), outcome.staleness
    seconds = float(outcome.end_CW.max() - outcome.end_CW[0].max())
    return Predicted(
        arm=arm,
        clock_s=float(clock_CW.mean()),
        clock_p95_s=float(np.percentile(clock_CW, 95)),
        commits_per_s=commits / len(keyspace_of(config, steps).slices) / seconds if seconds else float("inf"),
        step_bytes=(outcome.bytes / config.workers - profile.nbytes * profile.pull_share) / clocks,  # without the start
        staleness=sum(age * count for age, count in stale.items()) / commits if commits else 0.0,
        staleness_max=max(stale, default=0),
        waited_for=_waited_for(outcome),
    )


def _waited_for(outcome: Outcome) -> int | None:
    seconds: defaultdict[int, float] = defaultdict(float)
    for (worker, other), waited_s in outcome.waited_s.items():
        if other != worker and other >= 0:
            seconds[other] += waited_s
    return max(seconds, key=lambda rank: seconds[rank]) if seconds else None


def predict_experiment(
    experiment: Experiment, folder: Path, profiles: Iterable[Measured], clocks: int
) -> list[Predicted]:
    """Each arm of an experiment, with its first seed; what it would tune is as in the first try.

    Raises: ConfigError naming the arm that nothing can be said of.
    """
    known = {str(profile.codec): profile for profile in profiles}
    found = [cell for cell in untuned_cells(experiment, folder) if cell.seed == experiment.seeds[0]]
    used = [_profile_of(cell, known) for cell in found]
    return [
        predict(cell.arm, _completed(cell, profile), profile, network_of(cell) or Network(), clocks)
        for cell, profile in zip(found, used, strict=True)
    ]


def _completed(cell: Cell, profile: Measured) -> RunConfig:
    try:
        return profile.completed(cell.config)
    except ConfigError as error:
        raise ConfigError(f"{cell.arm}: {error}") from None


def _profile_of(cell: Cell, known: Mapping[str, Measured]) -> Measured:
    if cell.launch == "ranks":
        raise ConfigError(f"{cell.arm}: launch: expected a cluster of ours to predict, got ranks, which are none")
    codec = str(Codec.of(cell.config))
    if codec not in known:
        raise ConfigError(
            f"{cell.arm}: expected a profile with its compression, {codec}, got {'; '.join(known)}; make one with "
            "psctl profile --compression ..., and give each with a --profile of its own"
        )
    return known[codec]


def check_workers(experiment: Experiment, folder: Path) -> None:
    """Raises: ConfigError for an arm that has too many workers to be simulated with payload."""
    for cell in untuned_cells(experiment, folder):
        if (workers := cell.config.workers) > WORKERS_MAX:
            raise ConfigError(
                f"{cell.arm}: workers: expected at most {WORKERS_MAX} with payload, got {workers}; without payload "
                "there may be more: give --profile FILE, made by psctl profile"
            )


def table(found: Sequence[Predicted]) -> Table:
    """For a person."""
    head = ("arm", "s per clock", "95 %", "commits/s", "bytes per step", "staleness", "most", "waited for")
    rows = [
        (
            one.arm,
            *(f"{value:.4g}" for value in (one.clock_s, one.clock_p95_s, one.commits_per_s)),
            f"{one.step_bytes:,.0f}",
            f"{one.staleness:.2f}",
            str(one.staleness_max),
            "–" if one.waited_for is None else f"worker {one.waited_for}",
        )
        for one in found
    ]
    return Table("Predicted", head, tuple(rows))


def write_csv(found: Sequence[Predicted], path: Path) -> None:
    """The same with full precision. Raises: ConfigError when it cannot be written."""
    names = [one.name for one in fields(Predicted)]
    try:
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(names)
            rows.writerows([getattr(one, name) for name in names] for one in found)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from None
