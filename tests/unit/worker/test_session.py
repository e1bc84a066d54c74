"""The worker's side of every exchange: calls and messages in, actions out, no shard in sight.

In the lines `2#5` is push number 5 on slice 2; ids of pulls count from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from ps.consistency import consistency
from ps.messages import (
    Ask,
    Code,
    Gap,
    Init,
    InitDone,
    Join,
    Leave,
    LeaveDone,
    Pull,
    Push,
    Rejected,
    Tick,
    Ticked,
    Values,
    Verdicts,
    Waiting,
    Welcome,
)
from ps.types import Clock, Int64, WorkerId
from ps.worker.actions import Action, Deliver, Send, Settled
from ps.worker.core import PUSHES_IN_FLIGHT_MAX, Session
from ps.worker.resends import BACKOFF_MAX

INCARNATION = 3
FIRST_ID = INCARNATION << 32  # push and pull ids count from here


def ids(*numbers: int) -> Int64:
    return np.array(numbers, np.int64)


def session(model: str = "bsp", slices: int = 2, shards: int = 1, joined: bool = True, **options: Any) -> Session:
    """A session whose slices lie on the shards in turn, joined and with values in hand at version 0."""
    made = Session(0, INCARNATION, consistency(model), shards, **options)
    made.join(0.0)
    if joined:
        for shard in range(shards):
            made.handle(shard, welcome(), 0.0)
        made.place(np.arange(slices) % shards, np.full(slices, 64))
    return made


def show(action: Action) -> str:
    """One action in one line."""
    match action:
        case Send(to, body):
            return f"{to} <- {show_body(body)}"
        case Deliver(pull):
            return f"deliver {pull - FIRST_ID}"
        case Settled(push, slice_id, code, version):
            return f"settled push {push - FIRST_ID} on {slice_id}: {code.name.lower()} v{version}"


def show_body(body: Any) -> str:
    """One message in one line."""
    match body:
        case Push() | Tick():
            bases = "".join(f" v{base}" for base in sorted(set(body.base_E.tolist())))
            return f"{type(body).__name__.lower()} {body.clock}: {numbered(body)} on{bases}"
        case Pull():
            late = " late" if body.late else ""
            return f"pull {body.id - FIRST_ID} at {body.clock}{late}: {numbered(body)}"
        case Ask():
            return f"ask {numbered(body)}"
        case Init(_, _, slice_E):
            return f"init {','.join(map(str, slice_E))}"
        case Join() | Leave():
            return type(body).__name__.lower()
    raise AssertionError(body)


def numbered(body: Any) -> str:
    return ", ".join(f"{i}#{n}" for i, n in zip(body.slice_E, body.seq_E, strict=True))


def lines(actions: Iterable[Action]) -> list[str]:
    return [show(action) for action in actions]


# ---- what the training loop does -----------------------------------------------------------------------------------


def push(worker: Session, *slices: int, weight: float = 1.0, now: float = 0.0) -> list[str]:
    return lines(worker.push(ids(*slices) if slices else np.arange(len(worker.shard_S)), weight, now)[1])


def pull(worker: Session, *slices: int, now: float = 0.0) -> list[str]:
    return lines(worker.pull(ids(*slices) if slices else np.arange(len(worker.shard_S)), now)[1])


def tick(worker: Session, now: float = 0.0) -> list[str]:
    return lines(worker.tick(now))


def is_joined(worker: Session) -> bool:
    return worker.is_joined


def is_initialised(worker: Session) -> bool:
    return worker.is_initialised


def is_settled(worker: Session) -> bool:
    return worker.is_settled


def repeats(worker: Session) -> bool:
    return worker.repeats


def has_left(worker: Session) -> bool:
    return worker.has_left


# ---- what the shards say --------------------------------------------------------------------------------------------


def welcome(
    *entries: tuple[int, int, int], clock: int = 0, as_joiner: bool = False, incarnation: int = INCARNATION
) -> Welcome:
    """entries: (slice, last number, finished clock)."""
    slices, numbers, clocks = zip(*entries, strict=True) if entries else ((), (), ())
    return Welcome(incarnation, as_joiner, Clock(clock), ids(*slices), ids(*numbers), ids(*clocks), ids(), ids())


def verdicts(code: Code, *entries: tuple[int, int], version: int = 0, incarnation: int = INCARNATION) -> Verdicts:
    """entries: (slice, number)."""
    slices, numbers = zip(*entries, strict=True)
    codes = np.full(len(entries), code, np.uint8)
    return Verdicts(incarnation, ids(*slices), ids(*numbers), codes, np.full(len(entries), version))


def values(
    pull: int, slices: Sequence[int], version: int = 0, min_clock: int = 0, lr: float = 0.1, rate: float = 1.0
) -> Values:
    count = len(slices)
    return Values(FIRST_ID + pull, ids(*slices), np.full(count, version), np.full(count, min_clock), lr, rate)


def gap(*entries: tuple[int, int]) -> Gap:
    slices, numbers = zip(*entries, strict=True)
    return Gap(INCARNATION, ids(*slices), ids(*numbers))


def ticked(clock: int, late: bool = False) -> Ticked:
    return Ticked(INCARNATION, Clock(clock), late)


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
