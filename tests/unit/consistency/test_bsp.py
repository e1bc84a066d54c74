"""Bulk synchronous: one commit per clock, of everybody, in rank order."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from ps.consistency import Cadence, Gather, consistency
from tests.scenarios.drive import Drive


def test_the_three_answers() -> None:
    model = consistency("bsp")
    assert model.cadence == Cadence(push_every=1, pull_every=1, carries="gradient", local_lr=None, lazy=False)
    assert [model.commit(live) for live in (1, 7)] == [Gather(quorum=1), Gather(quorum=7)]
    versions, clocks = np.array([0, 1, 2, 1]), np.array([0, 1, 1, 2])
    assert model.gate(clocks, np.zeros(4, np.int64), versions, False).tolist() == [True, True, True, False]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_commit_is_in_rank_order_whoever_comes_first(order: tuple[int, ...]) -> None:
    shard = Drive("bsp", workers=3)
    lines = [line for worker in order for line in shard.push(worker, weight=worker + 1.0) + shard.tick(worker)]
    assert "apply 0 -> v1: worker 0#1, worker 1#1 x 2, worker 2#1 x 3; lr 0.1" in lines


def test_a_read_waits_for_everybodys_commit() -> None:
    shard = Drive("bsp")
    shard.step(0)
    assert shard.pull(0) == []
    shard.push(1)
    lines = shard.tick(1)
    assert lines[-1] == "apply 0 -> v1: worker 0#1, worker 1#1; lr 0.1"
    assert "worker:0 <- values for pull 1: 0 v1; min clock 1; lr 0.1 x 1" in shard.applied()


def test_nobody_waits_at_the_first_clock() -> None:
    shard = Drive("bsp")
    assert shard.pull(0) == ["worker:0 <- values for pull 1: 0 v0; min clock 0; lr 0.1 x 1"]


def test_several_pushes_of_a_clock_are_one_step() -> None:
    shard = Drive("bsp")
    shard.push(1, weight=2.0)
    shard.push(1, weight=3.0)
    shard.tick(1)
    assert "apply 0 -> v1: worker 0#1, worker 1#1 x 2, worker 1#2 x 3; lr 0.1" in shard.step(0)


def test_who_runs_ahead_without_reading_goes_into_its_own_round() -> None:
    shard = Drive("bsp")
    shard.step(0)
    assert "worker:0 <- verdicts 0#2 gathered" in shard.step(0)
    assert "apply 0 -> v1: worker 0#1, worker 1#1; lr 0.1" in shard.step(1)
    assert "apply 0 -> v2: worker 0#2, worker 1#2; lr 0.1" in shard.step(1)


def test_a_round_without_any_push_moves_only_the_version() -> None:
    shard = Drive("bsp")
    shard.tick(0)
    assert shard.tick(1) == ["worker:1 <- ticked 0", "apply 0 -> v1: nothing; lr 0.1"]
    shard.settle()
    assert shard.shard.ledger.version_S.tolist() == [1] and shard.shard.ledger.number_S.tolist() == [0]


def test_slices_commit_one_by_one() -> None:
    shard = Drive("bsp", slices=2)
    shard.step(0)
    shard.push(1, slices=[1])
    lines = shard.tick(1, number=[1, 1])
    assert lines == ["apply 1 -> v1: worker 0#1, worker 1#1; lr 0.1"]


def test_a_push_that_comes_during_the_commit_goes_into_the_next() -> None:
    shard = Drive("bsp")
    shard.push(0)
    shard.tick(0)
    shard.push(1)
    shard.tick(1)
    assert "worker:1 <- verdicts 0#2 gathered" in shard.push(1)
    assert "apply 0 -> v2: worker 0#2, worker 1#2; lr 0.1" in shard.tick(1) + shard.step(0)
