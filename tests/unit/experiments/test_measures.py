"""What one run is found to be, from the rows that it logged and what its peers have measured."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ps.experiments.measures import Measured, measure, spent, waited_for
from ps.experiments.results import read_results
from ps.metrics import Metrics
from tests.unit.experiments.sweeps import PEERS, Ended, logged, write_sweep

TOML = """
name = "e"
script = "train.py"
seeds = [1]
[run]
workers = 2
[grid]
consistency = ["async"]
[report]
metric = "accuracy"
best = "max"
target = 0.9
"""


def one_run(folder: Path, ended: Ended) -> Measured:
    """Of an experiment that has only this one."""
    write_sweep(folder, TOML, lambda cell: ended)
    found = read_results(folder / "sweep")
    return measure(found.runs[0], found.experiment.report)


@pytest.mark.parametrize(
    ("metric", "last", "final"), [("accuracy", 1, math.nan), ("accuracy", 0, 0.9), ("val", 1, 0.9)]
)
def test_a_metric_that_ends_in_values_that_were_left_out_has_diverged(
    tmp_path: Path, metric: str, last: int, final: float
) -> None:
    metrics = Metrics()
    metrics.gauge("nonfinite_log", last, metric=metric)
    peers = {"worker:0": PEERS["worker:0"], "worker:1": metrics.snapshot().to_dict()}
    found = one_run(tmp_path, Ended(logged([0.5, 0.9]), outcome={"peers": peers}))
    assert found.final == pytest.approx(final, nan_ok=True)


def test_seconds_per_step_are_from_tick_to_tick_however_long_processes_take_to_end(tmp_path: Path) -> None:
    """Worker 0 takes 1 s a step, worker 1 takes 0.25 s."""
    fast = Metrics()
    for _ in range(40):
        fast.observe("loop", 0.25)
    peers = {"worker:0": PEERS["worker:0"], "worker:1": fast.snapshot().to_dict()}
    found = one_run(tmp_path, Ended(logged([0.5, 0.9]), outcome={"peers": peers, "began": 2.0, "seconds": 500.0}))
    assert (found.steps_per_s, found.step_s) == (5.0, 0.4)


def test_seconds_per_step_of_ranks_are_from_the_first_row_to_the_last(tmp_path: Path) -> None:
    """Rank 1 logs nothing: it is as fast as rank 0, 2 clocks in 3 seconds."""
    rows = logged([0.5, 0.7, 0.9], every_s=3.0)
    found = one_run(tmp_path, Ended(rows, outcome={"peers": {}, "began": 2.0, "seconds": 500.0}))
    assert (found.steps_per_s, found.step_s) == pytest.approx((4 / 3, 1.5))


def test_time_is_split_into_compute_gate_and_the_rest(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOML, lambda cell: Ended(logged([0.5] * 10), outcome={"peers": PEERS}))
    run = read_results(tmp_path / "sweep").runs[0]
    parts = spent(run)  # of 10 steps of a second
    assert (parts[0].compute_s, parts[0].gate_s, parts[0].rest_s) == pytest.approx((0.2, 0.3, 0.5))
    assert (parts[1].compute_s, parts[1].gate_s, parts[1].rest_s) == pytest.approx((0.6, 0.0, 0.4))
    assert waited_for(run) == {0: {1: pytest.approx(2.75)}, 1: {1: pytest.approx(0.125)}}
