"""A sweep's folder is read as it is, and what is wrong in it is one line."""

from __future__ import annotations

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
from ps.experiments.tables import tuning_table
from tests.unit.experiments.sweeps import Ended, logged, write_sweep

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


def test_what_has_not_ended_is_counted_and_named_with_its_last_words(tmp_path: Path) -> None:
    cells = write_sweep(tmp_path, TOML, lambda cell: fine(cell) if cell.seed != 2 else None)
    found = read_results(tmp_path / "sweep")
    assert len(found.runs) == 2 and found.missing == 2
    begun = [(cell.id, "it goes on") for cell in cells if cell.seed == 2]
    assert [(cell.id, said) for cell, said in found.begun] == begun
    shutil.rmtree(tmp_path / "sweep" / "cells" / cells[0].id)
    assert read_results(tmp_path / "sweep").missing == 3


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ("workers = 2", "workers = 3", 0),
        ('["bsp", "async"]', '["async", "bsp", "quorum:n=2"]', 4),
        ('["bsp", "async"]', '["async"]', 0),  # one arm has the name of the experiment
        ("[1, 2]", "[2, 3]", 2),
        ('"train.py"', '"other.py"', 0),
    ],
)
def test_cells_of_an_earlier_version_of_the_file_are_left_out(
    tmp_path: Path, before: str, after: str, left: int
) -> None:
    write_sweep(tmp_path, TOML, fine)
    path = tmp_path / "sweep" / "experiment.toml"
    path.write_text(path.read_text().replace(before, after))
    found = read_results(tmp_path / "sweep")
    assert (len(found.runs), found.foreign) == (left, 4 - left)


def test_only_runs_with_the_settings_that_an_arm_has_chosen_are_reported(tmp_path: Path) -> None:
    def make(cell: Cell) -> Ended:
        return Ended([*logged([0.5, 0.95]), *logged([float(str(cell.settings["lr"]))], metric="val")])

    write_sweep(tmp_path, TUNED, make, {"bsp": {"lr": 0.3}, "async": {"lr": 0.1}})
    (tmp_path / "sweep" / "chosen.json").write_text('{"bsp": {"lr": 0.3}, "async": {"lr": 0.3}}')  # tuned once more
    found = read_results(tmp_path / "sweep")
    assert [len(found.final(arm)) for arm in found.arms] == [2, 0]
    assert (found.foreign, found.missing) == (2, 2)


def test_a_choice_that_the_grid_no_longer_has_is_none_yet(tmp_path: Path) -> None:
    """While a changed grid is tuned: the file of the experiment is new, that of the choices is old."""

    def make(cell: Cell) -> Ended:
        return Ended([*logged([0.5, 0.95]), *logged([float(str(cell.settings["lr"]))], metric="val")])

    grid = "[0.1, 0.3, 1.0]"
    write_sweep(tmp_path, TUNED.replace("[0.1, 0.3]", grid), make, {"bsp": {"lr": 0.3}, "async": {"lr": 0.1}})
    (tmp_path / "sweep" / "chosen.json").write_text('{"bsp": {"lr": 0.3}, "async": {"rate": 0.1}}')
    found = read_results(tmp_path / "sweep")
    assert found.chosen == {"bsp": {"lr": 0.3}} and [len(found.final(arm)) for arm in found.arms] == [2, 0]
    table = tuning_table(found)
    assert table is not None and "edge" not in table.note
    assert [[cell.endswith(" *") for cell in row[1:]] for row in table.rows] == [[False, True, False], [False] * 3]


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


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (no_experiment, r"^expected the folder of a sweep, with experiment.toml in it, got '.*sweep'$"),
        (cut_outcome, r"outcome.json: expected a JSON object, got a file that fails with: Unterminated string"),
        (no_clocks, r"outcome.json: clocks: expected a value, got none; links: "),
        (list_for_a_cell, r"cell.json: expected a JSON object, got list$"),
        (cut_points, r"points.parquet: expected a Parquet file of a sweep, got one that fails with: "),
        (no_commits, r"points.parquet: expected a column 'commits', got "),
        (
            another_axis,
            r"points.parquet: axis: expected one of virtual, emulated, wall in all rows, got virtual, wall$",
        ),
        (the_same_again, r"again/cell.json: id: expected that of its folder, again, got "),
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
