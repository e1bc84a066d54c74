"""Quorum: the first n of a round are committed, who comes later is refused and goes on from the new version."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.consistency import Gather, consistency
from ps.server.ledger import Commit
from tests.scenarios.drive import Drive


def test_the_three_answers() -> None:
    model = consistency("quorum:n=3")
    assert [model.commit(live) for live in (2, 3, 5)] == [Gather(min(live, 3), by="version") for live in (2, 3, 5)]
    assert not model.cadence.lazy and model.cadence.local_lr is None
    assert model.gate(np.array([1, 1]), np.array([0, 0]), np.array([0, 1]), False).tolist() == [False, True]


def test_a_round_is_committed_with_the_first_n_and_later_ones_are_refused() -> None:
    shard = Drive("quorum:n=2", workers=3)
    shard.step(2)
    assert "apply 0 -> v1: worker 0#1, worker 2#1; lr 0.1" in shard.step(0)
    assert "worker:1 <- verdicts 0#1 late v1" in shard.push(1)


def test_who_has_not_finished_the_clock_is_not_among_the_first() -> None:
    """A push without its tick may be a part of what the worker wants to add: the commit refuses it."""
    shard = Drive("quorum:n=2", workers=3)
    shard.push(1)
    shard.step(0)
    lines = shard.step(2)
    assert "apply 0 -> v1: worker 0#1, worker 2#1; lr 0.1, late worker 1#1" in lines
    assert "worker:1 <- verdicts 0#1 late v1" in lines
    assert "drop worker 1: 0#1" in lines


def test_a_late_worker_jumps_to_the_newest_version() -> None:
    shard = Drive("quorum:n=2", workers=3)
    for _ in range(4):
        for worker in (0, 2):
            shard.step(worker)
            shard.pull(worker)
    assert shard.push(1)[0] == "log refused worker 1: 0#1 v4"
    assert shard.tick(1) == ["worker:1 <- ticked 0 late"]
    assert shard.pull(1) == ["worker:1 <- values for pull 1: 0 v4; min clock 0; lr 0.1 x 1"]
    shard.step(1)
    assert "apply 0 -> v5: worker 0#5, worker 1#2; lr 0.1" in shard.step(0)


def test_a_push_that_comes_during_the_commit_of_its_round_is_refused_after_it() -> None:
    shard = Drive("quorum:n=1", workers=2)
    shard.push(0)
    shard.tick(0)
    assert shard.push(1) == ["keep worker 1: 0#1"], "no verdict while the apply of its round is in flight"
    assert shard.tick(1) == ["worker:1 <- ticked 0 late"]
    lines = shard.applied()
    assert "log refused worker 1: 0#1 v1" in lines and "worker:1 <- verdicts 0#1 late v1" in lines
    assert "drop worker 1: 0#1" in lines


def test_a_pull_after_a_late_tick_opens_on_every_shard() -> None:
    """Else two workers could wait for each other's push on different slices."""
    shard = Drive("quorum:n=2", workers=2)
    shard.step(0)
    assert shard.pull(0, id=1) == [], "worker 1 is missing in this round"
    lines = shard.pull(0, id=1, late=True)
    assert lines[-1] == "worker:0 <- values for pull 1: 0 v0; min clock 0; lr 0.1 x 1"


def test_with_fewer_live_workers_the_quorum_is_all_of_them() -> None:
    shard = Drive("quorum:n=2", workers=2)
    shard.step(0)
    assert "apply 0 -> v1: worker 0#1; lr 0.1" in shard.leave(1)


def test_two_clocks_in_one_open_round_add_up_and_count_as_one_worker() -> None:
    shard = Drive("quorum:n=2", workers=3)
    shard.step(0)
    assert not [line for line in shard.step(0) if line.startswith("apply")]
    assert "apply 0 -> v1: worker 0#1, worker 0#2, worker 1#1; lr 0.1" in shard.step(1)


def test_slices_advance_apart() -> None:
    shard = Drive("quorum:n=1", workers=2, slices=2)
    shard.push(0)
    shard.tick(0, number=[1, 2])
    shard.settle()
    assert shard.shard.ledger.version_S.tolist() == [1, 0]


@settings(max_examples=20)
@given(n=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_every_commit_has_n_distinct_workers_on_its_own_version(n: int, seed: int) -> None:
    random = Random(seed)
    shard = Drive(f"quorum:n={n}", workers=4)
    stage = dict.fromkeys(range(4), "read")
    for _ in range(120):
        worker = random.randrange(4)
        if shard.applies and random.random() < 0.4:
            lines = shard.applied()
        elif stage[worker] == "read":
            lines, stage[worker] = shard.pull(worker), "reading"
        elif stage[worker] == "has values":
            lines, stage[worker] = shard.push(worker) + shard.tick(worker), "read"
        else:
            continue
        for reader in stage:
            if any(line.startswith(f"worker:{reader} <- values") for line in lines):
                stage[reader] = "has values"
    commits = [record for record in shard.records if isinstance(record, Commit)]
    assert len(commits) > 5
    for commit in commits:
        assert len({push.worker for push in commit.contributions}) == len(commit.contributions) == n
        assert commit.base == commit.version - 1
