"""The worker's side of every exchange: calls and messages in, actions out, no shard in sight."""

from __future__ import annotations

import numpy as np

from ps.messages import Code
from ps.types import Clock
from ps.worker.core import PUSHES_IN_FLIGHT_MAX
from ps.worker.resends import BACKOFF_MAX
from tests.unit.worker.sessions import (
    INCARNATION,
    gap,
    ids,
    is_settled,
    lines,
    pull,
    push,
    repeats,
    session,
    tick,
    ticked,
    values,
    verdicts,
    welcome,
)

# ---- pushes ---------------------------------------------------------------------------------------------------------


def test_push_numbers_run_per_slice_and_one_message_goes_to_each_shard() -> None:
    worker = session(slices=3, shards=2)
    assert push(worker) == ["server:0 <- push 0: 0#1, 2#1 on v0", "server:1 <- push 0: 1#1 on v0"]
    assert push(worker, 1, 2) == ["server:0 <- push 0: 2#2 on v0", "server:1 <- push 0: 1#2 on v0"]
    assert push(worker, 0) == ["server:0 <- push 0: 0#2 on v0"]


def test_a_push_names_the_versions_that_it_was_computed_on() -> None:
    worker = session(slices=1)
    pull(worker)
    worker.handle(0, values(1, [0], version=7), 0.0)
    assert push(worker) == ["server:0 <- push 0: 0#1 on v7"]


def test_what_is_unanswered_is_sent_again_ever_later() -> None:
    worker = session(slices=1, resend_s=0.5)
    push(worker)
    times = []
    for _ in range(9):
        times.append(worker.next_timer())
        assert worker.on_timer(times[-1] - 1e-6) == []
        assert lines(worker.on_timer(times[-1])) == ["server:0 <- push 0: 0#1 on v0"]
    assert np.diff([0.0, *times]).tolist() == [0.5 * 2 ** min(n, BACKOFF_MAX) for n in range(9)]


def test_only_slices_without_an_answer_are_sent_again() -> None:
    worker = session(slices=3)
    push(worker)
    worker.handle(0, verdicts(Code.APPLIED, (0, 1), version=1), 0.1)
    worker.handle(0, verdicts(Code.GATHERED, (2, 1)), 0.1)
    assert worker.on_timer(1.0) == [], "an answer has just moved it"
    assert lines(worker.on_timer(1.1)) == ["server:0 <- push 0: 1#1 on v0"]


def test_what_the_transport_still_holds_is_not_sent_again() -> None:
    """Over a slow link a push takes longer than a lost message is waited for."""
    worker = session(slices=1)
    push(worker)
    [entry] = worker.pushes
    worker.resends.sending.begin((entry, 0))
    assert worker.on_timer(1.0) == [] and worker.next_timer() == 2.0
    worker.resends.sending.end((entry, 0))
    assert lines(worker.on_timer(2.0)) == ["server:0 <- push 0: 0#1 on v0"]


def test_a_gathered_push_is_asked_about_and_its_frame_kept() -> None:
    worker = session(slices=2)
    push(worker)
    assert worker.handle(0, verdicts(Code.GATHERED, (0, 1), (1, 1)), 0.1) == []
    assert lines(worker.on_timer(1.1)) == ["server:0 <- ask 0#1, 1#1"]
    assert is_settled(worker) and len(worker.pushes) == 1


def test_final_verdicts_settle_a_push_slice_by_slice() -> None:
    worker = session(slices=2)
    push(worker)
    assert lines(worker.handle(0, verdicts(Code.APPLIED, (0, 1), version=4), 0.1)) == [
        "settled push 1 on 0: applied v4"
    ]
    assert lines(worker.handle(0, verdicts(Code.LATE, (1, 1), version=5), 0.1)) == ["settled push 1 on 1: late v5"]
    assert worker.pushes == {} and worker.on_timer(99.0) == []
    assert worker.handle(0, verdicts(Code.APPLIED, (0, 1), version=4), 0.2) == [], "a copy"


def test_a_gathered_verdict_after_the_final_one_is_passed_over() -> None:
    worker = session(slices=1)
    push(worker)
    worker.handle(0, verdicts(Code.APPLIED, (0, 1), version=1), 0.1)
    assert worker.handle(0, verdicts(Code.GATHERED, (0, 1)), 0.2) == [] and is_settled(worker)


def test_a_verdict_on_an_earlier_incarnations_push_is_passed_over() -> None:
    worker = session(slices=1)
    push(worker)
    assert worker.handle(0, verdicts(Code.GATHERED, (0, 1), incarnation=INCARNATION - 1), 0.1) == []
    assert not is_settled(worker)


def test_a_gap_makes_everything_behind_it_due_at_once_and_in_order() -> None:
    worker = session(slices=1)
    for _ in range(3):
        push(worker)
    worker.handle(0, verdicts(Code.GATHERED, (0, 2)), 0.1)
    worker.handle(0, gap((0, 1)), 0.2)
    assert lines(worker.on_timer(0.2)) == ["server:0 <- push 0: 0#2 on v0", "server:0 <- push 0: 0#3 on v0"]


def test_a_gap_of_one_slice_leaves_the_others_alone() -> None:
    worker = session(slices=2)
    push(worker, 0)
    push(worker, 1)
    worker.handle(0, gap((1, 0)), 0.2)
    assert lines(worker.on_timer(0.2)) == ["server:0 <- push 0: 1#1 on v0"]


def test_a_push_waits_while_frames_of_too_many_clocks_are_unsettled() -> None:
    worker = session("async", slices=1, inflight_clocks=2)
    for clock in range(2):
        assert not worker.must_wait(ids(0)), clock
        push(worker)
        tick(worker)
    assert worker.must_wait(ids(0)), "clocks 0 and 1 are in flight"
    worker.handle(0, verdicts(Code.APPLIED, (0, 1), version=1), 0.0)
    assert not worker.must_wait(ids(0))


def test_a_push_waits_while_too_many_pushes_of_its_slice_are_unsettled() -> None:
    """The shard keeps a bounded number of verdicts; other slices go on."""
    worker = session("async", slices=2)
    for _ in range(PUSHES_IN_FLIGHT_MAX):
        assert not worker.must_wait(ids(0))
        push(worker, 0)
    assert worker.must_wait(ids(0)) and not worker.must_wait(ids(1))


# ---- ticks and cadence ----------------------------------------------------------------------------------------------


def test_a_tick_names_the_last_push_and_the_version_of_every_slice() -> None:
    worker = session(slices=3, shards=2)
    push(worker, 0, 1)
    push(worker, 1)
    assert tick(worker) == ["server:0 <- tick 0: 0#1, 2#0 on v0", "server:1 <- tick 0: 1#2 on v0"]
    assert worker.clock == 1


def test_a_tick_is_sent_until_it_is_confirmed() -> None:
    worker = session(slices=2, shards=2)
    tick(worker)
    worker.handle(0, ticked(0), 0.1)
    assert not is_settled(worker)
    assert lines(worker.on_timer(1.0)) == ["server:1 <- tick 0: 1#0 on v0"]
    worker.handle(1, ticked(0), 1.1)
    assert is_settled(worker) and worker.on_timer(99.0) == []


def test_a_confirmed_tick_confirms_those_before() -> None:
    worker = session(slices=1)
    tick(worker)
    tick(worker)
    worker.handle(0, ticked(1), 0.1)
    assert is_settled(worker)


def test_a_clock_is_closed_when_every_shard_has_confirmed_it() -> None:
    worker = session(slices=2, shards=2)
    assert not worker.has_closed(Clock(0)), "it has not ended here"
    tick(worker)
    tick(worker)
    worker.handle(0, ticked(1), 0.1)
    worker.handle(1, ticked(0), 0.1)
    assert worker.has_closed(Clock(0)) and not worker.has_closed(Clock(1))


def test_what_an_earlier_incarnation_has_begun_is_repeated_until_its_clock_is_over() -> None:
    """Closed on one slice of two; or a push applied on one, in a clock that is open."""
    worker = session(joined=False)
    worker.handle(0, welcome((0, 4, 3), (1, 3, 2), clock=2), 0.0)
    worker.place(ids(0, 0), ids(64, 64))
    assert worker.clock == 2 and repeats(worker)
    tick(worker)
    assert not repeats(worker)
    worker.ahead[1, 3] += 1
    assert repeats(worker)
    tick(worker)
    assert not repeats(worker)
    assert not repeats(session())


def test_downpour_ticks_travel_when_a_push_or_pull_may_follow() -> None:
    worker = session("downpour:push_every=2,pull_every=3", slices=1)
    travels = [bool(tick(worker)) for _ in range(6)]
    assert travels == [False, True, True, True, False, True]


def test_downpour_pushes_and_pulls_on_its_cadence() -> None:
    worker = session("downpour:push_every=2,pull_every=3", slices=1)
    worker.cached_S[:] = True
    pushes, pulls = [], []
    for _ in range(6):
        pulls.append(len(worker.travelling(ids(0))))
        worker.round_S[:] = worker.clock // 3  # it is fetched
        pushes.append(worker.push_travels)
        tick(worker)
    assert pushes == [False, True] * 3
    assert pulls == [1, 0, 0, 1, 0, 0]


def test_local_rounds_end_with_push_tick_and_pull() -> None:
    worker = session("local:every=3,local_lr=0.1", slices=1)
    worker.cached_S[:], worker.round_S[:] = True, 0
    told = []
    for _ in range(6):
        if worker.push_travels:
            told += push(worker)
        told += tick(worker)
        if len(worker.travelling(ids(0))):
            told += pull(worker)
            worker.round_S[:] = worker.clock // 3
    assert told == [
        "server:0 <- push 2: 0#1 on v0",
        "server:0 <- tick 2: 0#1 on v0",
        "server:0 <- pull 2 at 3: 0#1",
        "server:0 <- push 5: 0#2 on v0",
        "server:0 <- tick 5: 0#2 on v0",
        "server:0 <- pull 4 at 6: 0#2",
    ]


def test_slices_that_were_never_pulled_travel_off_cadence_at_the_clock_that_was_told() -> None:
    """The shards know of no later clock, and would wait for its tick."""
    worker = session("local:every=5,local_lr=0.1", slices=2)
    worker.cached_S[0], worker.round_S[0] = True, 0
    tick(worker)
    tick(worker)
    assert worker.travelling(ids(0, 1)).tolist() == [1]
    assert pull(worker, 1) == ["server:0 <- pull 1 at 0: 1#0"]
