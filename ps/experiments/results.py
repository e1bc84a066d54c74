"""What a sweep has left in its folder, checked: cells, how they ended, what they logged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from ps.errors import ConfigError, FrameError
from ps.experiments.cells import Cell, arms, product
from ps.experiments.files import Experiment, read_experiment
from ps.experiments.packages import need
from ps.experiments.statistics import Floats
from ps.metrics import Snapshot
from ps.plugins import describe

NUMBERS = ("seconds", "commits", "pushed_mb", "pulled_mb", "value")
COUNTS = ("rank", "clock")
TEXTS = ("axis", "metric")
AXES = ("virtual", "emulated", "wall")

T = TypeVar("T", bound=BaseModel)


class Use(BaseModel):
    """What one process has taken."""

    cpu_s: float
    peak_mb: float  # 10^6 bytes


class Outcome(BaseModel):
    """`outcome.json`: how a cell ended. Fields that are not here are left alone."""

    exit_code: int
    reason: str | None = None
    seconds: float  # of the cell's axis
    clocks: list[int]  # finished, by rank
    restarts: int = 0  # of workers
    checksum: str | None = None
    links: str = "none"
    peers: dict[str, dict[str, Any]] = {}  # "worker:0", "server:0": as `Snapshot.to_dict` gives them
    processes: dict[str, Use] = {}  # by the same names


@dataclass(frozen=True)
class Points:
    """Every logged value of a cell, by time; columns of equal length."""

    axis: str
    seconds: Floats
    rank: NDArray[np.int64]
    clock: NDArray[np.int64]
    commits: Floats
    pushed_mb: Floats
    pulled_mb: Floats
    metric: NDArray[np.str_]
    value: Floats

    def of(self, metric: str) -> Points:
        """The rows of one metric, NaN among them."""
        here_N = self.metric == metric
        columns = {name: getattr(self, name)[here_N] for name in (*NUMBERS, *COUNTS, "metric")}
        return Points(self.axis, **columns)


@dataclass(frozen=True)
class Run:
    """A cell that has ended. points: None where it logged nothing."""

    cell: Cell
    outcome: Outcome
    points: Points | None

    @property
    def problem(self) -> str | None:
        """Why it is not reported: it failed, or there is nothing to report."""
        if self.outcome.exit_code != 0:
            return f"exit code {self.outcome.exit_code}: {self.outcome.reason or 'no reason was given'}"
        return "nothing was logged" if self.points is None else None

    @cached_property
    def peers(self) -> dict[str, Snapshot]:
        """What each worker and server has measured. Raises: ConfigError."""
        try:
            return {peer: Snapshot.from_dict(plain) for peer, plain in self.outcome.peers.items()}
        except FrameError as error:
            raise ConfigError(f"cells/{self.cell.id}/outcome.json: peers: {error}") from None


@dataclass(frozen=True)
class Results:
    """A sweep as far as it got. Cells of arms that the experiment does not have are only counted."""

    experiment: Experiment
    environment: Mapping[str, Any]
    runs: tuple[Run, ...]  # that have ended, tuning too: by arm as in the file, then seed
    missing: int  # cells without an outcome
    foreign: int  # cells of other arms or seeds: of an earlier version of the file

    @property
    def arms(self) -> list[str]:
        """In the order of the file."""
        return list(arms(self.experiment))

    def final(self, arm: str) -> list[Run]:
        """All of an arm that are no tuning, with or without a problem."""
        return [run for run in self.runs if run.cell.arm == arm and run.cell.phase == "final"]

    @property
    def failures(self) -> list[Run]:
        """In both phases."""
        return [run for run in self.runs if run.problem is not None]


def read_results(folder: Path) -> Results:
    """Reads the folder of a sweep. Raises: ConfigError naming the file, in one line, when it is damaged or none."""
    need("pyarrow")
    if not (folder / "experiment.toml").is_file():
        raise ConfigError(f"expected the folder of a sweep, with experiment.toml in it, got {str(folder)!r}")
    experiment = read_experiment(folder / "experiment.toml")
    environment = _json(folder / "environment.json") if (folder / "environment.json").is_file() else {}
    order = {name: place for place, name in enumerate(arms(experiment))}
    runs: list[Run] = []
    foreign = 0
    for path in sorted((folder / "cells").glob("*/cell.json")):
        cell = read_cell(path.parent)
        if cell.arm not in order or cell.seed not in _seeds(experiment, cell.phase):
            foreign += 1
        elif (path.parent / "outcome.json").is_file():
            runs.append(Run(cell, read_outcome(path.parent), _points(path.parent / "points.parquet")))
    runs.sort(key=lambda run: (order[run.cell.arm], run.cell.phase, run.cell.seed, run.cell.id))
    _check_once(runs)
    tuning = 0 if experiment.tune is None else len(list(product(experiment.tune.grid))) * len(experiment.tune.seeds)
    expected = len(order) * (len(experiment.seeds) + tuning)
    return Results(experiment, environment, tuple(runs), max(0, expected - len(runs)), foreign)


def read_cell(folder: Path) -> Cell:
    """Of cells/ID. Raises: ConfigError naming file and field."""
    return _checked(Cell, folder / "cell.json")


def read_outcome(folder: Path) -> Outcome:
    """Of cells/ID. Raises: ConfigError naming file and field."""
    return _checked(Outcome, folder / "outcome.json")


def _seeds(experiment: Experiment, phase: str) -> list[int]:
    if phase == "final":
        return experiment.seeds
    return [] if experiment.tune is None else experiment.tune.seeds


def _check_once(runs: list[Run]) -> None:
    seen: dict[tuple[str, int], str] = {}
    for run in runs:
        if run.cell.phase == "final":
            first = seen.setdefault((run.cell.arm, run.cell.seed), run.cell.id)
            if first != run.cell.id:
                raise ConfigError(
                    f"cells/{run.cell.id}: expected one final cell of {run.cell.arm!r} with seed {run.cell.seed}, got "
                    f"this and cells/{first}: the file was changed in between; move one of them away"
                )


def _json(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected a JSON object, got a file that fails with: {error}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(plain).__name__}")
    return plain


def _checked(kind: type[T], path: Path) -> T:
    try:
        return kind.model_validate(_json(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from None


def _points(path: Path) -> Points | None:
    import pyarrow as pa
    from pyarrow import parquet

    if not path.is_file():
        return None
    try:
        table = parquet.read_table(path)
        absent = [name for name in (*NUMBERS, *COUNTS, *TEXTS) if name not in table.column_names]
        if absent:
            raise ConfigError(f"{path}: expected a column {absent[0]!r}, got {', '.join(table.column_names)}")
        columns: dict[str, Any] = {name: np.array(table[name].to_pylist(), np.float64) for name in NUMBERS}
        columns |= {name: np.array(table[name].to_pylist(), np.int64) for name in COUNTS}
        columns["metric"] = np.array(table["metric"].to_pylist(), np.str_)
        axes = sorted(set(table["axis"].to_pylist()))
    except (OSError, pa.ArrowException, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        said = str(error).partition("\n")[0]
        raise ConfigError(f"{path}: expected a Parquet file of a sweep, got one that fails with: {said}") from None
    if not axes:
        return None
    if len(axes) > 1 or axes[0] not in AXES:
        raise ConfigError(
            f"{path}: axis: expected one of {', '.join(AXES)} in all rows, got {', '.join(map(str, axes))}"
        )
    order_N = np.argsort(columns["seconds"], kind="stable")
    return Points(axes[0], **{name: column[order_N] for name, column in columns.items()})
