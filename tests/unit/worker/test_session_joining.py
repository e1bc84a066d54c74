"""A worker that joins, comes back, leaves or is refused: messages in, actions out."""

from __future__ import annotations

import numpy as np

from ps.messages import InitDone, LeaveDone, Rejected
from tests.unit.worker.sessions import (
    INCARNATION,
    has_left,
    ids,
    is_initialised,
    is_joined,
    lines,
    push,
    session,
    tick,
    ticked,
    welcome,
)

# ---- joining --------------------------------------------------------------------------------------------------------


def test_it_asks_every_shard_until_all_have_answered() -> None:
    worker = session(shards=3, joined=False)
    worker.handle(1, welcome(), 0.5)
    assert not is_joined(worker)
    assert lines(worker.on_timer(1.0)) == ["server:0 <- join", "server:2 <- join"]
    for shard in (0, 1, 2):
        worker.handle(shard, welcome(), 1.5)
    assert is_joined(worker) and worker.on_timer(99.0) == [] and worker.next_timer() == float("inf")


def test_a_welcome_of_another_incarnation_is_passed_over() -> None:
    worker = session(joined=False)
    worker.handle(0, welcome(incarnation=INCARNATION - 1), 0.0)
    assert not is_joined(worker)


def test_a_restarted_worker_goes_on_where_it_stood() -> None:
    """Slice 0 was finished through clock 4, slice 1 through clock 3: clock 3 is done again, on slice 1 alone."""
    worker = session(shards=2, joined=False)
    assert worker.handle(0, welcome((0, 8, 4), clock=4), 0.0) == []
    assert worker.handle(1, welcome((1, 6, 3), clock=3), 0.0) == []
    worker.place(ids(0, 1), ids(64, 64))
    assert worker.clock == 3
    assert push(worker) == ["server:1 <- push 3: 1#7 on v0"]
    assert tick(worker) == ["server:0 <- tick 3: 0#8 on v0", "server:1 <- tick 3: 1#7 on v0"]
    assert push(worker) == ["server:0 <- push 4: 0#9 on v0", "server:1 <- push 4: 1#8 on v0"]


def test_later_batches_of_a_restarted_worker_go_on_too() -> None:
    worker = session(joined=False)
    worker.handle(0, welcome((0, 8, 4), (1, 2, 4), clock=4), 0.0)
    worker.place(ids(0), ids(64))
    worker.place(ids(0), ids(64))
    assert push(worker) == ["server:0 <- push 4: 0#9, 1#3 on v0"]


def test_a_joiner_starts_at_the_latest_clock_and_tells_everybody() -> None:
    worker = session(shards=2, joined=False)
    assert worker.handle(0, welcome((0, 0, 5), clock=5, as_joiner=True), 0.0) == []
    told = worker.handle(1, welcome((1, 0, 7), clock=6, as_joiner=True), 0.0)
    assert worker.clock == 7
    assert lines(told) == ["server:0 <- tick 6:  on", "server:1 <- tick 6:  on"]


def test_a_joiner_at_clock_zero_has_nothing_to_tell() -> None:
    worker = session(joined=False)
    assert worker.handle(0, welcome((0, 0, 0), as_joiner=True), 0.0) == []
    assert worker.clock == 0


def test_a_joiner_starts_with_a_round() -> None:
    worker = session("local:every=4,local_lr=0.1", joined=False)
    told = worker.handle(0, welcome((0, 0, 5), as_joiner=True), 0.0)
    assert worker.clock == 8 and lines(told) == ["server:0 <- tick 7:  on"]


STREAM = "local:every=4,fragments=2,local_lr=0.1"  # slice 0 ends its rounds at clocks 4, 8, slice 1 at 2, 6


def test_a_restarted_worker_goes_on_from_the_last_exchange_that_its_slices_have_seen() -> None:
    """The push of slice 0 in clock 3 has not come; that shard 1 knows of clock 4 is no help."""
    worker = session(STREAM, shards=2, joined=False)
    worker.handle(0, welcome((0, 0, 0), clock=2), 0.0)
    assert worker.handle(1, welcome((1, 1, 2), clock=4), 0.0) == []
    assert worker.clock == worker.told == 2


def test_a_restarted_worker_tells_shards_of_an_exchange_that_was_none_of_their_slices() -> None:
    """Shard 1 has not heard of clock 4, at which slice 0 alone had its turn, and has done so."""
    worker = session(STREAM, shards=2, joined=False)
    worker.handle(0, welcome((0, 1, 4), clock=4), 0.0)
    told = worker.handle(1, welcome((1, 1, 2), clock=2), 0.0)
    assert worker.clock == worker.told == 4
    assert lines(told) == ["server:0 <- tick 3:  on", "server:1 <- tick 3:  on"]


def test_a_fragment_is_pushed_and_pulled_when_it_has_its_turn() -> None:
    worker = session(STREAM, slices=2)
    worker.cached_S[:], worker.round_S[:] = True, 0
    turns = []
    for _ in range(8):
        turns.append(np.flatnonzero(worker.ends_E(ids(0, 1))).tolist())
        tick(worker)
        fetched = worker.travelling(ids(0, 1))
        assert fetched.tolist() == turns[-1]
        worker.round_S[fetched] += 1
    assert turns == [[], [1], [], [0], [], [1], [], [0]]


def test_a_joiner_pushes_what_an_earlier_incarnation_had_finished() -> None:
    worker = session(joined=False)
    worker.handle(0, welcome((0, 5, 9), clock=2, as_joiner=True), 0.0)
    worker.place(ids(0), ids(64))
    assert push(worker) == ["server:0 <- push 9: 0#6 on v0"]


def test_initial_values_are_sent_until_every_slice_is_confirmed() -> None:
    worker = session(slices=3, shards=2)
    assert lines(worker.init([0, 1, 2], 0.0)) == ["server:0 <- init 0,2", "server:1 <- init 1"]
    worker.handle(0, InitDone(ids(0)), 0.1)
    worker.handle(1, InitDone(ids(1)), 0.1)
    assert lines(worker.on_timer(1.1)) == ["server:0 <- init 2"] and not is_initialised(worker)
    worker.handle(0, InitDone(ids(0, 2)), 1.1)
    assert is_initialised(worker)
    worker.handle(0, InitDone(ids(0)), 1.2)
    assert is_initialised(worker), "a late copy"


# ---- leaving and being refused --------------------------------------------------------------------------------------


def test_it_leaves_every_shard() -> None:
    worker = session(slices=2, shards=2)
    assert lines(worker.leave(0.0)) == ["server:0 <- leave", "server:1 <- leave"]
    worker.handle(0, LeaveDone(INCARNATION), 0.1)
    worker.handle(1, LeaveDone(INCARNATION - 1), 0.1)
    assert not has_left(worker)
    assert lines(worker.on_timer(1.0)) == ["server:1 <- leave"]
    worker.handle(1, LeaveDone(INCARNATION), 1.1)
    assert has_left(worker) and worker.on_timer(99.0) == []


def test_a_refusal_is_remembered_unless_it_was_for_an_earlier_incarnation() -> None:
    worker = session()
    worker.handle(0, Rejected(INCARNATION - 1, "old", True), 0.0)
    assert worker.fenced is None
    worker.handle(0, Rejected(INCARNATION, "declared lost", True), 0.0)
    assert worker.fenced == "declared lost"


def test_a_refusal_of_bytes_that_name_no_incarnation_counts() -> None:
    worker = session()
    worker.handle(0, Rejected(0, "header: expected one MessagePack tuple", False), 0.0)
    assert worker.fenced == "header: expected one MessagePack tuple"


def test_signs_of_life_are_noted_by_shard() -> None:
    worker = session(shards=2)
    worker.handle(1, ticked(0), 4.5)
    assert worker.heard == {0: 0.0, 1: 4.5}
