"""Stale synchronous: a reader is at most so many clocks ahead of the slowest."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.consistency import OnArrival, consistency
from ps.errors import ConfigError
from ps.server.ledger import Commit
from tests.scenarios.drive import Drive


def is_answered(lines: list[str], worker: int = 0) -> bool:
    return any(line.startswith(f"worker:{worker} <- values") for line in lines)


def ticks(shard: Drive, worker: int, clocks: int) -> list[str]:
    """This many clocks without pushes."""
    return [line for _ in range(clocks) for line in shard.tick(worker)]


def test_the_three_answers() -> None:
    model = consistency("ssp:staleness=2")
    assert model.cadence.lazy and model.cadence.push_every == model.cadence.pull_every == 1
    assert model.commit(4) == OnArrival(rate=0.25)
    clocks, least = np.array([0, 2, 3, 5]), np.array([0, 0, 0, 3])
    assert model.gate(clocks, least, np.zeros(4, np.int64), False).tolist() == [True, True, False, True]


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_a_fast_worker_is_held_until_the_slowest_catches_up(staleness: int) -> None:
    shard = Drive(f"ssp:staleness={staleness}", workers=2, slices=3)
    ticks(shard, worker=0, clocks=staleness)
    assert is_answered(shard.pull(0, slices=[0, 2])), "the bound is allowed"
    ticks(shard, worker=0, clocks=1)
    assert shard.pull(0, slices=[0, 2]) == []
    assert is_answered(ticks(shard, worker=1, clocks=1))


def test_the_slowest_never_waits() -> None:
    shard = Drive("ssp:staleness=0", workers=3)
    ticks(shard, worker=0, clocks=9)
    ticks(shard, worker=1, clocks=4)
    assert is_answered(shard.pull(2), worker=2)


def test_a_large_bound_never_blocks() -> None:
    shard = Drive(f"ssp:staleness={2**62}")
    ticks(shard, worker=0, clocks=50)
    assert is_answered(shard.pull(0))


def test_zero_is_not_bsp() -> None:
    """Pushes still commit one by one, and a read may see newer ones than those of its clock."""
    shard = Drive("ssp:staleness=0")
    shard.step(0)
    shard.push(1)
    assert shard.settle() == ["log commit 0 v2", "worker:1 <- verdicts 0#1 applied v2"]
    assert shard.pull(1) == ["worker:1 <- values for pull 1: 0 v2; min clock 0; lr 0.1 x 0.5"]


def test_a_clock_counts_when_its_pushes_are_applied() -> None:
    shard = Drive("ssp:staleness=0")
    shard.step(0)
    shard.pull(0)
    shard.push(1)
    assert not is_answered(shard.tick(1)), "the apply of its push is in flight"
    assert is_answered(shard.applied())


def test_each_slice_has_clocks_of_its_own() -> None:
    shard = Drive("ssp:staleness=0", slices=2)
    shard.step(0)
    shard.tick(1, number=[0, 1])
    assert is_answered(shard.pull(0, slices=[0]))
    assert not is_answered(shard.pull(0, slices=[0, 1])), "worker 1 has not delivered slice 1"


def test_the_bound_is_not_negative() -> None:
    with pytest.raises(ConfigError, match="consistency: ssp: staleness: expected greater than or equal to 0, got '-1'"):
        consistency("ssp:staleness=-1")


@settings(max_examples=20)
@given(staleness=st.integers(0, 3), seed=st.integers(0, 10**6))
def test_a_read_holds_every_update_that_it_must(staleness: int, seed: int) -> None:
    """All updates of clocks <= c - s - 1 of everybody, and the reader's own (Ho et al., section 3)."""
    random = Random(seed)
    shard = Drive(f"ssp:staleness={staleness}", workers=3)
    clock_of: dict[tuple[int, int], int] = {}  # (worker, push number) -> clock of the update
    waiting: dict[int, int] = {}  # reader -> its clock
    reads = 0

    def read(lines: list[str]) -> None:
        nonlocal reads
        for reader in [reader for reader in waiting if is_answered(lines, reader)]:
            clock = waiting.pop(reader)
            reads += 1
            assert clock - int(shard.shard.ledger.min_clock_S()[0]) <= staleness
            commits = [record for record in shard.records if isinstance(record, Commit)][: shard.books[reader].base[0]]
            held = {(push.worker, push.seq) for commit in commits for push in commit.contributions}
            must = {
                push for push, at in clock_of.items() if at < clock - staleness or (push[0] == reader and at < clock)
            }
            assert must <= held

    for _ in range(100):
        free = [worker for worker in range(3) if worker not in waiting]
        assert free or shard.applies, "somebody can always move"
        if shard.applies and (not free or random.random() < 0.3):
            read(shard.applied())
            continue
        worker = random.choice(free)
        books = shard.books[worker]
        for _ in range(random.randrange(3)):
            clock_of[worker, books.number.get(0, 0) + 1] = books.clock
            read(shard.push(worker))
        read(shard.tick(worker))
        waiting[worker] = books.clock
        read(shard.pull(worker))
    assert reads > 20
