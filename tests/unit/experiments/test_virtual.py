"""Faults of a cell in virtual time: what they do to workers that are through, and a run that ends before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ps.errors import ConfigError
from ps.experiments.cells import arms, final_cells
from ps.experiments.files import read_experiment
from ps.experiments.virtual import VirtualRun
from ps.launch.journal import Journal
from ps.launch.options import rules_of

SCRIPT = """
import numpy as np
import ps

with ps.connect() as client:
    client.register({"w": np.zeros(4, np.float32)})
    while client.clock < (20, 60)[client.rank] and not client.should_stop:
        client.push({"w": client.pull()["w"]})
        client.tick()
"""
FILE = """
name = "e"
script = "train.py"
max_restarts = 2

[run]
workers = 2
consistency = "async"
optimizer = "sgd:lr=0.1"
compute_s = 0.5

[report]
metric = "loss"
best = "min"
"""


def outcome(folder: Path, head: str, *faults: tuple[int, str]) -> dict[str, Any]:
    """Of a run with `head` before its file, whose worker 0 does 20 steps and worker 1 60."""
    (folder / "train.py").write_text(SCRIPT)
    tables = "".join(f'[[faults]]\nclock = {clock}\nkill = "{peer}"\n' for clock, peer in faults)
    (folder / "e.toml").write_text(head + FILE + tables)
    experiment = read_experiment(folder / "e.toml")
    [cell] = final_cells(experiment, folder, {name: {} for name in arms(experiment)})
    rules = rules_of(cell.stop_after, cell.stop_when, cell.patience)
    return VirtualRun(cell, Journal({}, pytest.fail), rules).execute()


def test_a_worker_that_is_through_is_not_started_again(tmp_path: Path) -> None:
    found = outcome(tmp_path, "", (40, "worker:0"))
    assert (found["exit_code"], found["restarts"], found["clocks"]) == (0, {}, [20, 60])


def test_who_is_dead_already_is_not_killed_twice(tmp_path: Path) -> None:
    found = outcome(tmp_path, "", (10, "worker:0"), (10, "worker:0"))
    assert (found["exit_code"], found["restarts"]) == (0, {0: 1})


def test_a_fault_that_has_not_happened_fails_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(tmp_path, "", (10, "worker:1"), (500, "worker:0"))
    assert (found["exit_code"], found["restarts"]) == (1, {1: 1})
    assert found["reason"].startswith(
        "faults: expected all to happen, 1 of 2 has not: kill worker:0 at clock 500; the run ended at clocks 20 to "
    )
    assert found["reason"] in capsys.readouterr().err


def test_a_stop_rule_that_holds_before_the_fault_fails_the_run(tmp_path: Path) -> None:
    found = outcome(tmp_path, 'stop_after = "5s"\n', (30, "worker:1"))
    assert found["exit_code"] == 1 and found["restarts"] == {}
    assert "kill worker:1 at clock 30" in found["reason"]
    assert found["reason"].endswith(": --stop-after 5s is reached")


def test_a_fault_that_the_stop_rule_leaves_no_room_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"faults: expected a clock below 30, where stop_after ends the run, got 30"):
        outcome(tmp_path, 'stop_after = "30clocks"\n', (30, "worker:1"))
