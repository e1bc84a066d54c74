"""Asynchronous: nobody waits, every push is a commit; and Downpour's cadence and warm start."""

from __future__ import annotations

import numpy as np
import pytest

from ps.consistency import Cadence, OnArrival, consistency
from ps.errors import ConfigError
from tests.scenarios.drive import Drive


def is_answered(lines: list[str], worker: int) -> bool:
    return any(line.startswith(f"worker:{worker} <- values") for line in lines)


def test_the_three_answers() -> None:
    model = consistency("async")
    assert model.cadence == Cadence() and model.commit(4) == OnArrival(rate=0.25)
    assert model.gate(np.array([99]), np.array([0]), np.array([0]), False).tolist() == [True]


def test_nobody_waits_for_anybody() -> None:
    shard = Drive("async", workers=3)
    for _ in range(10):
        shard.step(0)
        assert is_answered(shard.pull(0), 0)


def test_commits_come_in_the_order_of_arrival_with_their_staleness() -> None:
    shard = Drive("async", workers=3)
    lines = shard.push(2) + shard.push(0) + shard.push(1) + shard.settle()
    assert [line for line in lines if line.startswith("apply")] == [
        "apply 0 -> v1: worker 2#1; lr 0.0333333",
        "apply 0 -> v2: worker 0#1; lr 0.0333333, staleness 1",
        "apply 0 -> v3: worker 1#1; lr 0.0333333, staleness 2",
    ]


def test_downpour_is_async_with_a_cadence() -> None:
    model = consistency("downpour:push_every=3,pull_every=5,local_lr=0.01")
    assert model.cadence == Cadence(push_every=3, pull_every=5, local_lr=0.01)
    assert consistency("downpour").gate(np.array([9]), np.array([0]), np.array([0]), False).tolist() == [True]


def test_a_warm_start_lets_the_first_worker_go_alone() -> None:
    shard = Drive("downpour:warm_start=2", workers=3)
    assert is_answered(shard.pull(0), 0)
    assert shard.pull(1) == [] and shard.pull(2) == []
    assert not is_answered(shard.step(0), 1)
    assert is_answered(shard.step(0), 1)
    assert is_answered(shard.pull(2), 2)


def test_when_the_first_worker_leaves_a_warm_start_the_next_is_first() -> None:
    shard = Drive("downpour:warm_start=2", workers=3)
    shard.pull(1)
    shard.pull(2)
    lines = shard.leave(0)
    assert is_answered(lines, 1) and not is_answered(lines, 2)


@pytest.mark.parametrize("option", ["push_every=0", "pull_every=0", "local_lr=-1", "warm_start=-1"])
def test_options_out_of_range_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=r"consistency: downpour: .*expected greater than or equal to"):
        consistency(f"downpour:{option}")
