"""Folders as `psctl sweep` leaves them, written by hand: the reader is held against the contract, not the writer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ps.experiments.cells import Cell, Settings, arms, final_cells, tuning_cells
from ps.experiments.files import read_experiment
from ps.experiments.sweep import CHOSEN
from ps.metrics import Metrics

Row = tuple[float, int, int, float, float, float, str, float]
COLUMNS = ("seconds", "rank", "clock", "commits", "pushed_mb", "pulled_mb", "metric", "value")


@dataclass
class Ended:
    """How a cell ended, and what it logged: rows of COLUMNS."""

    rows: list[Row] = field(default_factory=list)
    axis: str = "virtual"
    outcome: dict[str, Any] = field(default_factory=dict)


Make = Callable[[Cell], Ended | None]  # None: it has begun and not ended


def write_sweep(folder: Path, toml: str, make: Make, chosen: Mapping[str, Settings] | None = None) -> list[Cell]:
    """Writes DIR = folder / "sweep", and gives its cells in the order in which they ran."""
    (folder / "train.py").write_text("")
    sweep = folder / "sweep"
    sweep.mkdir()
    (sweep / "experiment.toml").write_text(toml)
    (sweep / "environment.json").write_text(json.dumps({"python": "3.11", "cores": 2}))
    experiment = read_experiment(sweep / "experiment.toml")
    chosen = {arm: {} for arm in arms(experiment)} if chosen is None else chosen
    if experiment.tune is not None:
        (sweep / CHOSEN).write_text(json.dumps(chosen))
    cells = [*tuning_cells(experiment, folder), *final_cells(experiment, folder, chosen)]
    for cell in cells:
        write_cell(sweep, cell, make(cell))
    return cells


def write_cell(sweep: Path, cell: Cell, ended: Ended | None) -> None:
    """cells/ID of one cell."""
    folder = sweep / "cells" / cell.id
    folder.mkdir(parents=True)
    (folder / "cell.json").write_text(cell.model_dump_json())
    (folder / "output.log").write_text("it begins\nit goes on\n")
    if ended is None:
        return
    if ended.rows:
        columns: dict[str, list[Any]] = {
            name: list(column) for name, column in zip(COLUMNS, zip(*ended.rows, strict=True), strict=True)
        }
        own = {"cell": cell.id, "arm": cell.arm, "phase": cell.phase, "seed": cell.seed, "world": cell.world}
        own |= {"axis": ended.axis, "settings": json.dumps(cell.settings)}
        columns |= {name: [value] * len(ended.rows) for name, value in own.items()}
        parquet.write_table(pa.table(columns), folder / "points.parquet")
    last = ended.rows[-1][0] if ended.rows else 0.0
    outcome: dict[str, Any] = {
        "exit_code": 0,
        "reason": None,
        "seconds": last,
        "clocks": [11] * cell.config.workers,
        "began": 0.0,
        "restarts": {},
        "links": "virtual",
        "peers": {},
    }
    (folder / "outcome.json").write_text(json.dumps(outcome | {"processes": {}} | ended.outcome))


def logged(values: list[float], metric: str = "accuracy", every_s: float = 1.0, mb: float = 2.0) -> list[Row]:
    """One value after the other by rank 0: `every_s` seconds, 2 clocks, 4 commits, and so many MB each way apart."""
    return [
        (every_s * at, 0, 2 * at, 4.0 * at, mb * at, mb * at, metric, value) for at, value in enumerate(values, start=1)
    ]


def worker_peer(compute_s: float, wait_s: float, clocks: int = 10) -> dict[str, Any]:
    """A worker's measures; each clock but the first is measured from tick to tick, and takes a second."""
    metrics = Metrics()
    for clock in range(clocks):
        if clock:
            metrics.observe("loop", 1.0)
        metrics.observe("compute", compute_s / clocks)
        metrics.observe("wait", wait_s / clocks)
    metrics.count("push_bytes", 3_000_000, direction="sent")
    metrics.count("pull_bytes", 5_000_000, direction="received")
    return metrics.snapshot().to_dict()


def server_peer(gate_s: Mapping[tuple[int, int], float], staleness: list[int]) -> dict[str, Any]:
    """A server's measures. gate_s: by who waited and for whom."""
    metrics = Metrics()
    for (worker, other), seconds in gate_s.items():
        metrics.observe("gate_wait", seconds, worker=worker, waited_for=other)
    for value in staleness:
        metrics.observe("staleness", value)
    return metrics.snapshot().to_dict()


PEERS = {
    "worker:0": worker_peer(compute_s=2.0, wait_s=4.0),
    "worker:1": worker_peer(compute_s=6.0, wait_s=0.5),
    "server:0": server_peer({(0, 1): 3.0, (1, 1): 0.25}, [0, 0, 1, 4]),
    "server:1": server_peer({(0, 1): 2.5}, [0, 2]),
}
