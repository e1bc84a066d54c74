"""What a worker pulls, and when what it has will do: messages in, actions out."""

from __future__ import annotations

import pytest

from ps.messages import Values, Waiting
from ps.types import WorkerId
from ps.worker.actions import Send
from ps.worker.core import Session
from tests.unit.worker.sessions import FIRST_ID, ids, lines, pull, push, session, tick, ticked, values

# ---- pulls ----------------------------------------------------------------------------------------------------------


def test_a_pull_names_its_clock_and_the_own_pushes_that_must_be_in() -> None:
    worker = session(slices=3, shards=2)
    push(worker, 0)
    tick(worker)
    assert pull(worker) == ["server:0 <- pull 2 at 1: 0#1, 2#0", "server:1 <- pull 2 at 1: 1#0"]


def test_values_are_delivered_shard_by_shard_and_remembered() -> None:
    worker = session(slices=3, shards=2)
    entry, _ = worker.pull(ids(0, 1, 2), 0.0)
    assert lines(worker.handle(0, values(1, [0, 2], version=4, min_clock=3, lr=0.5, rate=0.25), 0.1)) == ["deliver 1"]
    assert list(entry.missing) == [1]
    assert lines(worker.handle(1, values(1, [1], version=5, min_clock=2), 0.2)) == ["deliver 1"]
    assert not entry.missing and worker.pulls == {}
    assert worker.base_S.tolist() == [4, 5, 4] and worker.min_clock_S.tolist() == [3, 2, 3]
    assert (worker.lr, worker.rate) == (0.1, 1.0)


def test_only_shards_that_have_not_answered_are_asked_again() -> None:
    worker = session(slices=2, shards=2)
    pull(worker)
    worker.handle(0, values(1, [0]), 0.1)
    assert lines(worker.on_timer(1.0)) == ["server:1 <- pull 1 at 0: 1#0"]


@pytest.mark.parametrize(
    "stale",
    [values(9, [0]), values(1, [1]), values(1, [0, 1]), values(1 - FIRST_ID + (2 << 32), [0])],
    ids=["unknown id", "other slices", "more slices", "earlier incarnation"],
)
def test_values_that_answer_nothing_are_passed_over(stale: Values) -> None:
    worker = session(slices=2)
    pull(worker, 0)
    assert worker.handle(0, stale, 0.1) == [] and len(worker.pulls) == 1


def test_a_second_copy_of_values_is_passed_over() -> None:
    worker = session(slices=1)
    pull(worker)
    worker.handle(0, values(1, [0], version=1), 0.1)
    pull(worker)
    worker.handle(0, values(2, [0], version=2), 0.2)
    assert worker.handle(0, values(1, [0], version=1), 0.3) == []
    assert worker.base_S.tolist() == [2]


def test_an_abandoned_pull_is_neither_sent_again_nor_delivered() -> None:
    worker = session(slices=1)
    entry, _ = worker.pull(ids(0), 0.0)
    worker.abandon(entry)
    assert worker.on_timer(5.0) == [] and worker.handle(0, values(1, [0]), 5.0) == []


def test_a_pull_tells_the_oldest_one_that_is_still_wanted() -> None:
    worker = session(slices=1)
    first, _ = worker.pull(ids(0), 0.0)
    _, sent = worker.pull(ids(0), 0.0)
    assert [action.body.oldest - FIRST_ID for action in sent if isinstance(action, Send)] == [1]
    worker.abandon(first)
    assert [action.body.oldest - FIRST_ID for action in worker.on_timer(1.0) if isinstance(action, Send)] == [2]


def test_what_a_shard_says_about_a_wait_is_noted() -> None:
    worker = session(slices=1)
    entry, _ = worker.pull(ids(0), 0.0)
    note = Waiting(entry.id, 0, WorkerId(3), 2, 7.5)
    worker.handle(0, note, 0.1)
    assert entry.note == note
    worker.handle(0, Waiting(entry.id + 5, 0, WorkerId(4), 2, 7.5), 0.1)
    assert entry.note == note


def test_after_a_late_tick_pulls_say_so_to_every_shard_at_once() -> None:
    worker = session("quorum:n=2", slices=2, shards=2)
    tick(worker)
    pull(worker)
    assert lines(worker.handle(0, ticked(0, late=True), 0.1)) == [
        "server:0 <- pull 1 at 1 late: 0#0",
        "server:1 <- pull 1 at 1 late: 1#0",
    ]
    assert worker.handle(1, ticked(0, late=True), 0.2) == [], "said already"


def test_a_pull_that_starts_after_a_late_tick_says_so_and_the_next_clock_does_not() -> None:
    worker = session("quorum:n=2", slices=1)
    tick(worker)
    worker.handle(0, ticked(0, late=True), 0.1)
    assert pull(worker) == ["server:0 <- pull 1 at 1 late: 0#0"]
    tick(worker)
    worker.handle(0, ticked(1), 0.2)
    assert pull(worker) == ["server:0 <- pull 2 at 2: 0#0"]


# ---- the cache of lazy models ---------------------------------------------------------------------------------------


def cached(overlays: bool = False, min_clock: int = 0) -> Session:
    """An ssp worker with staleness 2 that has pulled both slices."""
    worker = session("ssp:staleness=2", slices=2, overlays=overlays)
    pull(worker)
    worker.handle(0, values(1, [0, 1], min_clock=min_clock), 0.0)
    return worker


def test_the_first_pull_travels() -> None:
    assert session("ssp:staleness=2", slices=2).travelling(ids(0, 1)).tolist() == [0, 1]


def test_a_copy_serves_while_the_gate_is_open_for_it() -> None:
    worker = cached(min_clock=1)
    needed = []
    for _ in range(5):
        needed.append(worker.travelling(ids(0, 1)).tolist())
        tick(worker)
    assert needed == [[], [], [], [], [0, 1]], "clock 3 is two ahead of 1, clock 4 three"


def test_a_slice_that_was_written_is_pulled_unless_the_worker_can_overlay_its_update() -> None:
    for overlays, needed in ((False, [0]), (True, [])):
        worker = cached(overlays)
        push(worker, 0)
        assert worker.travelling(ids(0, 1)).tolist() == needed


def test_fresh_values_have_the_own_writes_in_them() -> None:
    worker = cached()
    push(worker, 0)
    pull(worker, 0)
    worker.handle(0, values(3, [0]), 0.1)
    assert worker.travelling(ids(0, 1)).tolist() == []


@pytest.mark.parametrize("model", ["bsp", "async", "quorum:n=2"])
def test_other_models_pull_every_time(model: str) -> None:
    worker = session(model, slices=2)
    pull(worker)
    worker.handle(0, values(1, [0, 1]), 0.0)
    assert worker.travelling(ids(0, 1)).tolist() == [0, 1]
