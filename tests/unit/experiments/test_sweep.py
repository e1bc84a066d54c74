"""What a sweep does with its folder: whose it is, what is left of a start that was broken off, what is damaged."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ps.errors import ConfigError
from ps.experiments import netlab, runner, sweep
from ps.experiments.cells import Cell, final_cells, tuning_cells
from ps.experiments.files import parse_experiment
from ps.experiments.results import read_results
from ps.experiments.sweep import CHOSEN, Sweep, has_ended_well, jobs_for
from tests.unit.experiments.sweeps import Ended, logged, write_cell, write_sweep

TOML = """
name = "e"
script = "train.py"
[run]
workers = 2
optimizer = "sgd:lr={lr}"
[tune]
metric = "val"
best = "max"
seeds = [9]
grid = {lr = [0.1, 0.3]}
[report]
metric = "loss"
best = "min"
"""
PLAIN = TOML.replace("{lr}", "0.1").replace(TOML[TOML.index("[tune]") : TOML.index("[report]")], "")


class Said:
    """What a sweep shows, kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def ended(self, cell: Cell, outcome: Mapping[str, Any] | None, why: str) -> None: ...

    def progress(self, done: int, total: int, running: int, left_s: float | None) -> None: ...

    def say(self, text: str) -> None:
        self.lines.append(text)


def sweep_of(folder: Path, toml: str = PLAIN) -> Sweep:
    (folder / "train.py").touch()
    (folder / "e.toml").write_text(toml)
    return Sweep(folder / "e.toml", folder / "sweep", 1, Said())


def tuned(cell: Cell) -> Ended:
    return Ended([*logged([0.5], metric="loss"), *logged([float(str(cell.tuned["lr"]))], metric="val")])


def test_a_sweep_that_is_refused_leaves_the_file_of_the_one_that_runs(tmp_path: Path) -> None:
    with closing(sweep_of(tmp_path)) as first:
        first.prepare()
        words = "expected a folder of its own, got one that a sweep works in"
        with closing(sweep_of(tmp_path, PLAIN + "# edited")) as second, pytest.raises(ConfigError, match=words):
            second.prepare()
        assert (tmp_path / "sweep" / "experiment.toml").read_text() == PLAIN
    with closing(sweep_of(tmp_path)) as third:
        third.prepare()


def test_the_environment_is_written_where_an_earlier_start_was_broken_off_before(tmp_path: Path) -> None:
    for _ in range(2):
        with closing(sweep_of(tmp_path)) as sweep:
            sweep.prepare()
        described = tmp_path / "sweep" / "environment.json"
        assert "python" in json.loads(described.read_text())
        described.unlink()


def full(path: Path, text: str) -> None:
    """As `Path.write_text` where the disk is full."""
    path.open("w").close()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("is_new", [True, False])
def test_the_same_command_goes_on_after_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    if not is_new:
        with closing(sweep_of(tmp_path)) as sweep:
            sweep.prepare()
    with closing(sweep_of(tmp_path)) as sweep, monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(ConfigError, match="expected a folder to write in, got No space left on device"):
            sweep.prepare()
    with closing(sweep_of(tmp_path)) as sweep:
        sweep.prepare()
    assert (tmp_path / "sweep" / "experiment.toml").read_text() == PLAIN


def test_a_cell_that_the_disk_has_no_room_for_leaves_a_sweep_that_can_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sweep_of(tmp_path)) as sweep, monkeypatch.context() as patched:
        sweep.prepare()
        patched.setattr(Path, "write_text", full)
        assert not sweep.run()
    [cell] = (tmp_path / "sweep" / "cells").iterdir()
    assert list(cell.iterdir()), "it was begun"
    found = read_results(tmp_path / "sweep")
    assert (found.runs, found.begun, found.missing) == ((), (), 1)


def test_the_other_experiment_is_named(tmp_path: Path) -> None:
    with closing(sweep_of(tmp_path)) as sweep:
        sweep.prepare()
    words = "expected results of f, got those of e; use --out"
    with closing(sweep_of(tmp_path, PLAIN.replace('"e"', '"f"'))) as sweep, pytest.raises(ConfigError, match=words):
        sweep.prepare()


def test_a_damaged_choice_and_damaged_points_of_tuning_are_named(tmp_path: Path) -> None:
    cells = write_sweep(tmp_path, TOML, tuned, {"e": {"lr": 0.3}})
    chosen = tmp_path / "sweep" / CHOSEN
    chosen.write_text("{")
    with pytest.raises(ConfigError, match=r"chosen.json: expected a JSON object, got a file that fails with"):
        sweep_of(tmp_path, TOML).run()
    chosen.unlink()
    (tmp_path / "sweep" / "cells" / cells[0].id / "points.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"points.parquet: expected a Parquet file of a sweep, got one that fails"):
        sweep_of(tmp_path, TOML).run()


def test_a_choice_that_cannot_be_written_stops_the_sweep_with_a_line(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOML, tuned, {"e": {"lr": 0.3}})
    (tmp_path / "sweep" / f"{CHOSEN}.part").mkdir()
    sweep = sweep_of(tmp_path, TOML)
    assert not sweep.run() and sweep.broken
    assert isinstance(sweep.view, Said) and sweep.view.lines[-1].startswith("stopped: [Errno 21] Is a directory")


def test_of_two_versions_of_the_script_the_one_that_was_swept_last_is_reported(tmp_path: Path) -> None:
    """A, then B, then A again, of which all cells are done."""
    [first] = write_sweep(tmp_path, PLAIN, lambda cell: Ended(logged([1.0], metric="loss")))
    (tmp_path / "train.py").write_text("edited")
    [second] = final_cells(parse_experiment(tmp_path / "e.toml", PLAIN), tmp_path, {"e": {}})
    write_cell(tmp_path / "sweep", second, Ended(logged([2.0], metric="loss")))
    os.utime(tmp_path / "sweep" / "cells" / first.id / "cell.json", (1, 1))
    assert [run.cell.id for run in read_results(tmp_path / "sweep").runs] == [second.id]
    os.utime(tmp_path / "sweep" / "cells" / second.id / "cell.json", (2, 2))
    (tmp_path / "train.py").write_text("")
    assert sweep_of(tmp_path).run()
    assert [run.cell.id for run in read_results(tmp_path / "sweep").runs] == [first.id]


def test_tuning_needs_what_its_own_world_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlab, "missing", lambda: "expected root, got none")
    with pytest.raises(ConfigError, match=r"tune.world: expected root, got none; or choose tune.world = virtual$"):
        sweep_of(tmp_path, TOML.replace("[tune]", '[tune]\nworld = "netlab"'))
    experiment = parse_experiment(tmp_path / "e.toml", TOML.replace("[tune]", '[tune]\nworld = "processes"'))
    assert jobs_for(experiment, None) == 1


@pytest.mark.parametrize(("world", "least_s"), [("virtual", 0.0), ("netlab", netlab.COMMAND_S)])
def test_hosts_can_be_removed_before_a_cell_that_is_to_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: str, least_s: float
) -> None:
    graces: list[float] = []

    def supervisor(show: object, warn: object, logs: Path, grace_s: float) -> None:
        graces.append(grace_s)
        raise OSError("that is all")

    monkeypatch.setattr(netlab, "missing", lambda: None)
    monkeypatch.setattr(sweep, "Supervisor", supervisor)
    assert not sweep_of(tmp_path, PLAIN.replace("[run]", f'world = "{world}"\n[run]')).run()
    assert [grace_s > least_s for grace_s in graces] == [True]


@pytest.mark.parametrize(
    ("outcome", "ended_well"),
    [
        (None, False),
        ({}, False),
        ({"exit_code": 0}, True),
        ({"exit_code": 1}, False),
        ({"exit_code": 1, "reason": None}, False),
        ({"exit_code": 1, "reason": "worker 1: killed by SIGKILL"}, True),
        ({"exit_code": 1, "reason": "worker 0: killed by SIGKILL"}, False),
    ],
)
def test_a_cell_has_ended_well_by_itself_or_by_the_peer_that_its_fault_kills(
    tmp_path: Path, outcome: dict[str, Any] | None, ended_well: bool
) -> None:
    (tmp_path / "train.py").write_text("")
    toml = PLAIN.replace("[report]", '[[faults]]\nclock = 3\nkill = "worker:1"\n[report]')
    [cell] = final_cells(parse_experiment(tmp_path / "e.toml", toml), tmp_path, {"e": {}})
    assert has_ended_well(cell, outcome) is ended_well


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, cell: Cell, environment: str = "{}") -> int:
    (folder / "environment.json").write_text(environment)
    write_cell(folder, cell, None)
    monkeypatch.setattr(sys, "argv", ["runner", str(folder / "cells" / cell.id)])
    return runner.main()


def test_a_script_that_was_edited_since_its_cell_was_made_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text("")
    cell = tuning_cells(parse_experiment(tmp_path / "e.toml", TOML), tmp_path)[0]
    (tmp_path / "train.py").write_text("raise AssertionError('it runs')")
    assert run(monkeypatch, tmp_path, cell) == 2
    assert "script: expected the file as the sweep found it, got an edited one" in capsys.readouterr().err


def test_a_cell_whose_environment_is_damaged_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text("raise AssertionError('it runs')")
    cell = tuning_cells(parse_experiment(tmp_path / "e.toml", TOML), tmp_path)[0]
    assert run(monkeypatch, tmp_path, cell, '{"python": ') == 2
    said = capsys.readouterr().err
    assert "environment.json: expected a JSON object, got a file that fails with: " in said and said.count("\n") == 1


def test_a_run_in_virtual_time_whose_log_was_cut_off_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_off(cell: Cell, folder: Path) -> dict[str, Any]:
        (folder / "run.jsonl").write_text('{"event": "start"}\n{"time": 1, "ra')
        return {"exit_code": 0, "began": 0.0}

    monkeypatch.setattr(runner, "run_virtual", cut_off)
    (tmp_path / "train.py").write_text("")
    cell = tuning_cells(parse_experiment(tmp_path / "e.toml", TOML), tmp_path)[0]
    assert run(monkeypatch, tmp_path, cell) == 2
    assert "run.jsonl: expected the run's end in its last line, got none" in capsys.readouterr().err
    assert not (tmp_path / "cells" / cell.id / "outcome.json").exists()


def test_a_run_that_could_not_begin_has_said_why_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(options: object, make_control: object) -> int:
        print("psctl run: no port is free", file=sys.stderr)
        return 1

    monkeypatch.setattr(runner, "run_cluster", broken)
    (tmp_path / "train.py").write_text("")
    toml = PLAIN.replace("[run]", 'world = "processes"\n[run]')
    [cell] = final_cells(parse_experiment(tmp_path / "e.toml", toml), tmp_path, {"e": {}})
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, tmp_path, cell)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "psctl run: no port is free\n"
