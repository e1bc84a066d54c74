"""A sweep's folder is read as it is, and what is wrong in it is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ps.errors import ConfigError
from ps.experiments import packages
from ps.experiments.cells import Cell
from ps.experiments.results import read_results
from tests.unit.experiments.sweeps import Ended, logged, write_cell, write_sweep

TOML = """
name = "e"
script = "train.py"
seeds = [1, 2]
[run]
workers = 2
[grid]
consistency = ["bsp", "async"]
[report]
metric = "accuracy"
best = "max"
target = 0.9
"""
TUNED = TOML.replace("[run]", '[run]\noptimizer = "sgd:lr={lr}"') + (
    '[tune]\nmetric = "val"\nbest = "max"\nseeds = [9]\ngrid = {lr = [0.1, 0.3]}\n'
)


def fine(cell: Cell) -> Ended:
    return Ended(logged([0.5, 0.8, 0.95]))


def test_runs_come_by_arm_and_seed_with_their_rows_by_time(tmp_path: Path) -> None:
    def make(cell: Cell) -> Ended:
        return Ended(logged([0.5, 0.9])[::-1])

    write_sweep(tmp_path, TOML, make)
    found = read_results(tmp_path / "sweep")
    assert [(run.cell.arm, run.cell.seed) for run in found.runs] == [("bsp", 1), ("bsp", 2), ("async", 1), ("async", 2)]
    points = found.runs[0].points
    assert points is not None and points.axis == "virtual"
    assert points.seconds.tolist() == [1.0, 2.0] and points.value.tolist() == [0.5, 0.9]
    assert (found.missing, found.foreign, found.failures) == (0, 0, [])


def test_what_has_not_ended_or_is_of_another_file_is_counted(tmp_path: Path) -> None:
    cells = write_sweep(
        tmp_path,
        TUNED,
        lambda cell: fine(cell) if cell.seed != 2 else None,
        {arm: {"lr": 0.1} for arm in ("bsp", "async")},
    )
    other = cells[-1].model_copy(update={"id": "0" * 12, "arm": "quorum"})
    write_cell(tmp_path / "sweep", other, fine(other))
    found = read_results(tmp_path / "sweep")
    assert len(found.runs) == 4 + 2 and (found.missing, found.foreign) == (2, 1)
    shutil.rmtree(tmp_path / "sweep" / "cells" / cells[0].id)
    assert read_results(tmp_path / "sweep").missing == 3


def no_experiment(sweep: Path, cell: Path) -> None:
    (sweep / "experiment.toml").unlink()


def cut_outcome(sweep: Path, cell: Path) -> None:
    (cell / "outcome.json").write_text((cell / "outcome.json").read_text()[:20])


def no_clocks(sweep: Path, cell: Path) -> None:
    (cell / "outcome.json").write_text('{"exit_code": 0, "seconds": 1}')


def list_for_a_cell(sweep: Path, cell: Path) -> None:
    (cell / "cell.json").write_text("[]")


def cut_points(sweep: Path, cell: Path) -> None:
    data = (cell / "points.parquet").read_bytes()
    (cell / "points.parquet").write_bytes(data[: len(data) // 2])


def no_commits(sweep: Path, cell: Path) -> None:
    table = parquet.read_table(cell / "points.parquet")
    parquet.write_table(table.drop_columns(["commits"]), cell / "points.parquet")


def another_axis(sweep: Path, cell: Path) -> None:
    table = parquet.read_table(cell / "points.parquet")
    axis = pa.array(["wall", "virtual", "virtual"])
    parquet.write_table(table.set_column(table.column_names.index("axis"), "axis", axis), cell / "points.parquet")


def the_same_again(sweep: Path, cell: Path) -> None:
    shutil.copytree(cell, cell.parent / "again")
    plain = json.loads((cell / "cell.json").read_text()) | {"id": "again"}
    (cell.parent / "again" / "cell.json").write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_experiment, r"^expected the folder of a sweep, with experiment.toml in it, got '.*sweep'$"),
        (cut_outcome, r"outcome.json: expected a JSON object, got a file that fails with: Unterminated string"),
        (no_clocks, r"outcome.json: clocks: expected a value, got none$"),
        (list_for_a_cell, r"cell.json: expected a JSON object, got list$"),
        (cut_points, r"points.parquet: expected a Parquet file of a sweep, got one that fails with: "),
        (no_commits, r"points.parquet: expected a column 'commits', got "),
        (
            another_axis,
            r"points.parquet: axis: expected one of virtual, emulated, wall in all rows, got virtual, wall$",
        ),
        (the_same_again, r"expected one final cell of 'bsp' with seed 1, got this and cells/"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_damage_is_one_line_that_names_the_file(
    tmp_path: Path, damage: Callable[[Path, Path], None], said: str
) -> None:
    cells = write_sweep(tmp_path, TOML, fine)
    damage(tmp_path / "sweep", tmp_path / "sweep" / "cells" / cells[0].id)
    with pytest.raises(ConfigError, match=said) as raised:
        read_results(tmp_path / "sweep")
    assert "\n" not in str(raised.value)


def test_measures_that_are_none_are_named_when_they_are_looked_at(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOML, lambda cell: Ended(logged([0.5]), outcome={"peers": {"worker:0": {"counters": 3}}}))
    with pytest.raises(ConfigError, match=r"outcome.json: peers: metrics: expected a snapshot made by to_dict"):
        _ = read_results(tmp_path / "sweep").runs[0].peers


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^expected the package pyarrow, .*pip install 'paramserver\[experiments\]'$"
    ):
        read_results(tmp_path)
