"""Rows of a run's log become points: bytes and commits up to then, whatever happened to workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ps.experiments.cells import Cell, final_cells
from ps.experiments.files import read_experiment
from ps.experiments.points import points

TOML = """
name = "e"
script = "train.py"
seeds = [1]
[run]
workers = 2
[report]
metric = "loss"
best = "min"
"""


def cell_of(folder: Path) -> Cell:
    (folder / "train.py").write_text("")
    (folder / "e.toml").write_text(TOML)
    (cell,) = final_cells(read_experiment(folder / "e.toml"), folder, {"e": {}})
    return cell


def row(seconds: float, rank: int, name: str, value: float) -> dict[str, Any]:
    return {"seconds": seconds, "rank": rank, "clock": 1, "name": name, "value": value}


def test_bytes_of_a_worker_that_was_restarted_go_on(tmp_path: Path) -> None:
    """Worker 1 has pushed 4 MB, then begins anew and pushes 1, 3, begins again and pushes 2; worker 0 counts on."""
    told = [(2.0, 4.0), (3.0, 1.0), (4.0, 3.0), (5.0, 2.0)]
    rows = [row(seconds, 1, "ps/pushed_mb", value) for seconds, value in told]
    rows += [row(seconds, 0, "ps/pushed_mb", seconds) for seconds, _ in told]
    rows += [row(seconds, 0, "loss", 0.5) for seconds in (2.0, 3.0, 3.5, 4.0, 5.0)]
    found = points(cell_of(tmp_path), rows, "wall", began=1.0).to_pydict()
    assert found["pushed_mb"] == pytest.approx([2 + 4, 3 + 5, 3.5 + 6, 4 + 7, 5 + 9])


def test_bytes_that_were_told_before_the_first_clock_was_over_count(tmp_path: Path) -> None:
    """1 MB after 2 s, 3 MB after 4 s, then one a second; the first clock takes 5 s."""
    rows = [row(seconds, 0, "ps/pushed_mb", value) for seconds, value in ((2.0, 1.0), (4.0, 3.0), (6.0, 5.0))]
    rows += [row(seconds, 0, "loss", 0.5) for seconds in (1.0, 2.0, 3.0, 5.0, 6.0)]
    found = points(cell_of(tmp_path), rows, "wall", began=5.0).to_pydict()
    assert found["pushed_mb"] == pytest.approx([0.5, 1.0, 2.0, 4.0, 5.0])
    assert found["seconds"] == [0.0, 0.0, 0.0, 0.0, 1.0]
