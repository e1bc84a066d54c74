"""What a sweep has left in its folder, checked: cells, how they ended, what they logged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from ps.errors import ConfigError, FrameError
from ps.experiments.cells import Cell, Settings, arms, count_cells, is_of, product
from ps.experiments.files import Experiment, Tune, read_experiment
from ps.experiments.packages import need
from ps.experiments.points import Axis, axis_of, wholly_read
from ps.experiments.statistics import Floats
from ps.experiments.sweep import CHOSEN, has_ended_well, read_object
from ps.metrics import Snapshot
from ps.plugins import describe

NUMBERS = ("seconds", "commits", "pushed_mb", "pulled_mb", "value")
COUNTS = ("rank", "clock")
TEXTS = ("axis", "metric")
AXES: tuple[str, ...] = get_args(Axis)

T = TypeVar("T", bound=BaseModel)


class Use(BaseModel):
    """What one process has taken."""

    cpu_s: float
    peak_mb: float  # 10^6 bytes


class Outcome(BaseModel):
    """`outcome.json`: how a cell ended. Fields that are not here are left alone."""

    exit_code: int
    reason: str | None = None
    seconds: float  # since the start of the run
    clocks: list[int]  # finished, by rank
    restarts: dict[int, int] = {}  # by rank
    links: str
    peers: dict[str, dict[str, Any]] = {}  # "worker:0", "server:0": as `Snapshot.to_dict` gives them
    processes: dict[str, Use] = {}  # "worker 0", "server 0"


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
        if not has_ended_well(self.cell, vars(self.outcome)):
            return f"exit code {self.outcome.exit_code}: {self.outcome.reason or 'no reason was given'}"
        return "nothing was logged" if self.points is None and not self.nonfinite else None

    @property
    def axis(self) -> str:
        """What its seconds are."""
        return axis_of(self.cell, self.outcome.links) if self.points is None else self.points.axis

    @cached_property
    def nonfinite(self) -> set[str]:
        """Metrics whose last value at some worker was NaN or infinite: points hold none of these."""
        workers = [snapshot for peer, snapshot in self.peers.items() if peer.startswith("worker:")]
        gauges = [(name, dict(labels), value) for one in workers for (name, labels), value in one.gauges.items()]
        return {labels["metric"] for name, labels, value in gauges if name == "nonfinite_log" and value == 1}

    @cached_property
    def peers(self) -> dict[str, Snapshot]:
        """What each worker and server has measured. Raises: ConfigError."""
        try:
            return {peer: Snapshot.from_dict(plain) for peer, plain in self.outcome.peers.items()}
        except FrameError as error:
            raise ConfigError(f"cells/{self.cell.id}/outcome.json: peers: {error}") from None


@dataclass(frozen=True)
class Results:
    """A sweep as far as it got. Cells that the experiment, as it is now, does not have are only counted."""

    experiment: Experiment
    environment: Mapping[str, Any]
    runs: tuple[Run, ...]  # that have ended, tuning too: by arm as in the file, then seed
    begun: tuple[tuple[Cell, str], ...]  # without an outcome, and the last that they have said
    missing: int  # cells without an outcome, begun or not
    foreign: int  # cells of an earlier version of the file
    chosen: Mapping[str, Settings]  # by arm, what tuning has found in the grid as it is now

    @property
    def arms(self) -> list[str]:
        """In the order of the file."""
        return list(arms(self.experiment))

    def final(self, arm: str) -> list[Run]:
        """All of an arm that are no tuning, with or without a problem."""
        return [run for run in self.runs if run.cell.arm == arm and run.cell.phase == "final"]

    @property
    def edited(self) -> list[str]:
        """The scripts of which runs had different versions."""
        known = arms(self.experiment)
        versions: dict[str, set[str]] = {}
        for run in self.runs:
            script = known[run.cell.arm][0].script or self.experiment.script
            versions.setdefault(script, set()).add(run.cell.script_sha256)
        return [script for script, found in versions.items() if len(found) > 1]

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
    environment = read_object(folder / "environment.json") if (folder / "environment.json").is_file() else {}
    found = [read_cell(path.parent) for path in sorted((folder / "cells").glob("*/cell.json"))]
    cells = _newest([cell for cell in found if is_of(cell, experiment)], folder)
    order = {name: place for place, name in enumerate(arms(experiment))}
    cells.sort(key=lambda cell: (order[cell.arm], cell.phase, cell.seed))
    runs, begun = [], []
    for cell in cells:
        at = folder / "cells" / cell.id
        if (at / "outcome.json").is_file():
            runs.append(Run(cell, _checked(Outcome, at / "outcome.json"), _points(at / "points.parquet")))
        else:
            begun.append((cell, _last_line(at / "output.log")))
    chosen = _chosen(folder / CHOSEN, experiment.tune)
    runs, left = _of_the_choice(runs, experiment, chosen)
    missing = max(0, count_cells(experiment) - len(runs))
    return Results(experiment, environment, tuple(runs), tuple(begun), missing, len(found) - len(cells) + left, chosen)


def _newest(cells: list[Cell], folder: Path) -> list[Cell]:
    """Of cells that differ in what their script held only, the last that a sweep has begun or found done."""
    found: dict[tuple[str, str, int, str], Cell] = {}
    for cell in sorted(cells, key=lambda cell: (folder / "cells" / cell.id / "cell.json").stat().st_mtime_ns):
        found[cell.arm, cell.phase, cell.seed, json.dumps(cell.tuned, sort_keys=True)] = cell
    return list(found.values())


def _chosen(path: Path, tune: Tune | None) -> dict[str, Settings]:
    """By arm. A choice that the grid no longer has is none: the arms are being tuned once more."""
    if tune is None or not path.is_file():
        return {}
    tried = list(product(tune.grid))
    return {arm: settings for arm, settings in read_object(path).items() if settings in tried}


def _of_the_choice(runs: list[Run], experiment: Experiment, chosen: Mapping[str, Settings]) -> tuple[list[Run], int]:
    """The runs without those whose settings its arm did not choose, and how many these are: the tuning has changed."""
    if experiment.tune is None:
        return runs, 0
    kept = [run for run in runs if run.cell.phase == "tune" or run.cell.tuned == chosen.get(run.cell.arm)]
    return kept, len(runs) - len(kept)


def read_cell(folder: Path) -> Cell:
    """Of cells/ID. Raises: ConfigError naming file and field."""
    cell = _checked(Cell, folder / "cell.json")
    if cell.id != folder.name:
        raise ConfigError(f"{folder / 'cell.json'}: id: expected that of its folder, {folder.name}, got {cell.id}")
    return cell


def _last_line(path: Path) -> str:
    """Of what a cell has printed, or nothing."""
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _checked(kind: type[T], path: Path) -> T:
    try:
        return kind.model_validate(read_object(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from None


def _points(path: Path) -> Points | None:
    from pyarrow import parquet

    if not path.is_file():
        return None
    with wholly_read(path):
        table = parquet.read_table(path)
        absent = [name for name in (*NUMBERS, *COUNTS, *TEXTS) if name not in table.column_names]
        if absent:
            raise ConfigError(f"{path}: expected a column {absent[0]!r}, got {', '.join(table.column_names)}")
        columns: dict[str, Any] = {name: table[name].to_numpy().astype(np.float64) for name in NUMBERS}
        columns |= {name: table[name].to_numpy().astype(np.int64) for name in COUNTS}
        columns["metric"] = table["metric"].to_numpy().astype(np.str_)
        axes = sorted(set(table["axis"].unique().to_pylist()))
    if not axes:
        return None
    if len(axes) > 1 or axes[0] not in AXES:
        raise ConfigError(
            f"{path}: axis: expected one of {', '.join(AXES)} in all rows, got {', '.join(map(str, axes))}"
        )
    order_N = np.argsort(columns["seconds"], kind="stable")
    return Points(axes[0], **{name: column[order_N] for name, column in columns.items()})
