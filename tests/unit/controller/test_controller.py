"""Membership, placement, barriers, epochs and the end: messages in, messages out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ps.controller.actions import Send
from ps.controller.core import Controller
from ps.errors import ConfigError
from ps.keyspace import Options, Parameter
from ps.messages import (
    Barrier,
    BarrierOpen,
    BatchReady,
    Committed,
    CommittedByAll,
    Confirmed,
    Done,
    Enroll,
    Enrolled,
    EpochDone,
    EpochEnd,
    Join,
    Log,
    Lost,
    LrSet,
    Place,
    Placed,
    Progress,
    Rate,
    Register,
    Registered,
    Rejected,
    SetLr,
    Skipped,
    Spec,
    Stop,
    Waiting,
)
from ps.types import Clock, PeerId, WorkerId, server_peer, worker_peer

READER = PeerId("reader:0")
CONFIG = '{"workers": 2}'


def controller(workers: int = 2, shards: int = 1, enrolled: bool = True, **options: Any) -> Controller:
    """A controller whose workers have come."""
    made = Controller(workers, shards, CONFIG, **options)
    for rank in range(workers if enrolled else 0):
        enroll(made, rank)
    return made


def enroll(control: Controller, rank: int, now: float = 0.0) -> Any:
    """The answer to one worker's Enroll."""
    [send] = control.handle(worker_peer(max(rank, 0)), Enroll(WorkerId(rank), False, 7), now)
    return send.body


def say(control: Controller, rank: int, kind: type, *values: Any, now: float = 0.0, incarnation: int = 1) -> list[Send]:
    """One message of a worker."""
    return control.handle(worker_peer(rank), kind(WorkerId(rank), incarnation, *values), now)


def to(sends: list[Send], peer: str) -> list[Any]:
    return [send.body for send in sends if send.to == peer]


def bodies(sends: list[Send], kind: type) -> list[tuple[str, Any]]:
    """Who got a message of this kind, and which."""
    return [(send.to, send.body) for send in sends if isinstance(send.body, kind)]


def spec(name: str, *shape: int, dtype: str = "float32", options: Options = Options()) -> Spec:
    return Spec.of(Parameter(name, shape, dtype, options))


SPECS = (spec("w", 64, 128), spec("b", 64))


# ---- enrolment ------------------------------------------------------------------------------------------------------


def test_a_worker_is_told_its_rank_incarnation_size_and_config() -> None:
    assert enroll(controller(enrolled=False), 1) == Enrolled(WorkerId(1), 1, 7, 2, CONFIG)


def test_a_restarted_worker_gets_the_next_incarnation() -> None:
    control = controller()
    assert enroll(control, 1).incarnation == 2
    assert enroll(control, 1).incarnation == 3
    assert enroll(control, 0).incarnation == 2


def test_who_asks_for_no_rank_gets_a_free_one_and_then_a_new_one() -> None:
    control = controller(workers=3, enrolled=False)
    enroll(control, 1)
    answers = [enroll(control, -1) for _ in range(4)]
    assert [int(answer.rank) for answer in answers] == [0, 2, 3, 4]
    assert [answer.incarnation for answer in answers] == [1, 1, 1, 1]
    assert [answer.size for answer in answers] == [3, 3, 4, 5]


def test_a_new_rank_never_takes_the_place_of_one_that_runs() -> None:
    control = controller(workers=1)
    enroll(control, 2)
    assert int(enroll(control, -1).rank) == 3, "not len(members)"


def test_a_message_of_an_earlier_incarnation_is_fenced() -> None:
    control = controller()
    enroll(control, 1)
    [send] = say(control, 1, Progress, Clock(5), incarnation=1)
    why = "worker 1: expected its current incarnation, got 1; it was restarted"
    assert send == Send(worker_peer(1), Rejected(1, why, True))
    assert control.members[1].clock == 0


def test_a_stranger_is_fenced() -> None:
    [send] = say(controller(), 7, Progress, Clock(5))
    assert isinstance(send.body, Rejected) and send.body.fenced


@pytest.mark.parametrize("message", [Waiting(1, 0, WorkerId(0), 0, 0.0), Placed(0, 1), CommittedByAll(1)])
def test_messages_without_an_incarnation_are_answered_not_trusted(message: Any) -> None:
    sends = controller().handle(READER, message, 0.0)
    useless = Rejected(0, f"controller: no use for a {type(message).__name__}", False)
    assert to(sends, READER) == ([] if isinstance(message, Placed) else [useless])


def test_metrics_of_unequal_length_are_no_disaster() -> None:
    control = controller()
    say(control, 0, Log, Clock(3), 0.0, ("loss", "accuracy"), (0.5,))
    assert control.members[0].logged == {"loss": 0.5} and control.members[0].logged_clock == 3


def test_who_enrolls_after_the_end_is_told_of_it() -> None:
    control = controller()
    control.handle(worker_peer(0), Stop("enough", False), 0.0)
    assert enroll(control, 1) == Stop("enough", False)


# ---- registration ---------------------------------------------------------------------------------------------------


def test_a_batch_is_placed_on_every_shard_before_anybody_is_answered() -> None:
    control = controller(shards=2)
    sends = say(control, 1, Register, 0, SPECS)
    assert [(peer, body.batch, body.epoch) for peer, body in bodies(sends, Place)] == [
        ("server:0", 0, 1),
        ("server:1", 0, 1),
    ]
    assert say(control, 0, Register, 0, SPECS) == []
    assert control.handle(server_peer(1), Placed(1, 1), 0.0) == []
    [(peer, told)] = bodies(control.handle(server_peer(0), Placed(0, 1), 0.0), Registered)
    assert (peer, told.initialise, told.epoch) == ("worker:0", True, 1)
    assert np.array_equal(told.shard_E, control.batches.map.shard_S)


def test_the_others_are_answered_once_the_initial_values_are_in() -> None:
    control = controller(shards=1)
    say(control, 0, Register, 0, SPECS)
    control.handle(server_peer(0), Placed(0, 1), 0.0)
    assert say(control, 1, Register, 0, SPECS) == [Send(worker_peer(1), Waiting(0, -1, WorkerId(0), Clock(0), 0.0))]
    told_all = bodies(say(control, 0, BatchReady, 0), Registered)
    assert [(peer, told.initialise) for peer, told in told_all] == [("worker:0", False), ("worker:1", False)]
    [(peer, told)] = bodies(say(control, 1, Register, 0, SPECS), Registered)
    assert peer == "worker:1" and not told.initialise, "asked again"


def test_the_first_batch_opens_when_all_have_registered_it() -> None:
    control = controller(shards=1)
    say(control, 0, Register, 0, SPECS)
    control.handle(server_peer(0), Placed(0, 1), 0.0)
    [send] = say(control, 0, BatchReady, 0)
    assert send == Send(worker_peer(0), Waiting(0, -1, WorkerId(1), Clock(0), 0.0)), "worker 1 has not come"
    told_all = bodies(say(control, 1, Register, 0, SPECS), Registered)
    assert [(peer, told.initialise) for peer, told in told_all] == [("worker:0", False), ("worker:1", False)]


@pytest.mark.parametrize("ends", ["lost", "done"])
def test_the_next_rank_initialises_where_the_first_has_gone_before_it_did(ends: str) -> None:
    control = controller(shards=1)
    say(control, 0, Register, 0, SPECS)
    say(control, 1, Register, 0, SPECS)
    control.handle(server_peer(0), Placed(0, 1), 0.0)
    sends = control.worker_lost(0, "killed", 1.0) if ends == "lost" else say(control, 0, Done, "")
    [(peer, told)] = bodies(sends, Registered)
    assert peer == "worker:1" and told.initialise


def test_the_lowest_live_rank_initialises() -> None:
    control = controller()
    say(control, 0, Done, "")
    say(control, 1, Register, 0, SPECS)
    assert bodies(control.handle(server_peer(0), Placed(0, 1), 0.0), Registered)[0][1].initialise


def test_a_later_batch_has_a_later_epoch_and_names_only_its_own_slices() -> None:
    control = controller(shards=2)
    say(control, 0, Register, 0, SPECS)
    [place, _] = [body for _, body in bodies(say(control, 0, Register, 1, (spec("v", 64, 128),)), Place)]
    assert (place.batch, place.epoch, len(place.shard_E)) == (1, 2, 1)


def test_a_batch_out_of_turn_is_refused() -> None:
    [send] = say(controller(), 0, Register, 2, SPECS)
    assert send.body == Rejected(1, "register: expected batch 0, got 2", False)


@pytest.mark.parametrize(
    ("got", "text"),
    [
        (
            (spec("w", 64, 127), SPECS[1]),
            "'w': expected shape (64, 128) float32 like the other workers, got shape (64, 127)",
        ),
        (
            (spec("w", 64, 128, dtype="float64"), SPECS[1]),
            "float32 like the other workers, got shape (64, 128) float64",
        ),
        ((spec("w", 64, 128, options=Options(lr_scale=3.0)), SPECS[1]), "lr_scale=1.0"),
        ((spec("w", 64, 128, options=Options(lr_scale=3.0)), SPECS[1]), "lr_scale=3.0"),
        ((SPECS[1], SPECS[0]), "parameter 0: expected 'w' like the other workers, got 'b'"),
        ((SPECS[0],), "expected 2 parameters like the other workers, got 1, 'b' is missing"),
        ((*SPECS, spec("c", 1)), "expected 2 parameters like the other workers, got 3, 'c' is one too many"),
    ],
)
def test_a_batch_that_differs_from_the_others_is_refused_in_words(got: tuple[Spec, ...], text: str) -> None:
    control = controller()
    say(control, 0, Register, 0, SPECS)
    [send] = say(control, 1, Register, 0, got)
    assert send.body.reason.startswith("worker 1: register: ") and not send.body.fenced
    assert text in send.body.reason and "register the same parameters" in send.body.reason


def test_options_that_differ_and_are_none_are_no_disaster() -> None:
    control = controller()
    say(control, 0, Register, 0, (SPECS[0],))
    [send] = say(control, 1, Register, 0, (Spec("w", (64, 128), "float32", -1.0, None, None, None, False, 1 << 20),))
    assert isinstance(send.body, Rejected)


def test_parameters_that_we_cannot_hold_are_refused_and_leave_no_trace() -> None:
    control = controller()
    bad = Spec("w", (2,), "complex64", 1.0, None, None, None, False, 1 << 20)
    with pytest.raises(ConfigError):
        bad.parameter()
    [send] = say(control, 0, Register, 0, (bad,))
    assert "parameter 'w': expected dtype" in send.body.reason
    [send] = say(control, 0, Register, 0, (SPECS[0], SPECS[0]))
    assert "parameter 'w': expected a new name" in send.body.reason
    assert control.batches.all == [] and len(bodies(say(control, 0, Register, 0, SPECS), Place)) == 1


def test_a_reader_learns_every_batch_those_before_it_and_those_after() -> None:
    control = controller()
    say(control, 0, Register, 0, SPECS)
    sends = control.handle(READER, Enroll(WorkerId(-1), True, 0), 0.0)
    assert [type(body) for body in to(sends, READER)] == [Place, Enrolled]
    assert len(to(say(control, 0, Register, 1, (spec("v", 1),)), READER)) == 1
    assert control.members.keys() == {0, 1}, "it counts in nothing"


# ---- barriers -------------------------------------------------------------------------------------------------------


def test_a_barrier_opens_when_all_live_workers_have_reached_it() -> None:
    control = controller(workers=3)
    assert say(control, 0, Barrier, 1, True) == say(control, 1, Barrier, 1, True) == []
    assert say(control, 2, Barrier, 1, True) == [Send(worker_peer(rank), BarrierOpen(1)) for rank in range(3)]


def test_a_barrier_waits_for_workers_that_have_not_come_yet() -> None:
    control = controller(workers=2, enrolled=False)
    enroll(control, 0)
    assert say(control, 0, Barrier, 1, True) == []
    enroll(control, 1)
    assert len(say(control, 1, Barrier, 1, True)) == 2


def test_a_barrier_opens_when_the_last_one_missing_leaves() -> None:
    control = controller(workers=3)
    say(control, 0, Barrier, 1, True)
    say(control, 1, Barrier, 1, True)
    opened = bodies(say(control, 2, Done, ""), BarrierOpen)
    assert [peer for peer, _ in opened] == ["worker:0", "worker:1"]


@pytest.mark.parametrize(("on_loss", "opens"), [("drop", True), ("wait", False)])
def test_a_lost_worker_holds_a_barrier_only_if_it_is_waited_for(on_loss: Any, opens: bool) -> None:
    control = controller(on_worker_loss=on_loss)
    say(control, 0, Barrier, 1, True)
    assert bool(bodies(control.worker_lost(1, "gone", 0.0), BarrierOpen)) == opens


@pytest.mark.parametrize("rank", [1, 2], ids=["restarted", "joiner"])
def test_a_barrier_that_was_opened_is_open_for_who_comes_later(rank: int) -> None:
    control = controller()
    for number in (1, 2):
        say(control, 0, Barrier, number, True)
        say(control, 1, Barrier, number, True)
    incarnation = enroll(control, rank).incarnation
    assert BarrierOpen(1) in to(say(control, rank, Barrier, 1, True, incarnation=incarnation), worker_peer(rank))


# ---- data epochs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "needed"), [(0.75, 3), (0.5, 2), (1.0, 4), (0.1, 1), (0.76, 4)])
def test_an_epoch_ends_when_this_share_of_the_workers_is_through(share: float, needed: int) -> None:
    control = controller(workers=4, epoch_share=share)
    ended = [bodies(say(control, rank, EpochDone, 0), EpochEnd) for rank in range(4)]
    assert [bool(told) for told in ended] == [rank == needed - 1 for rank in range(4)]
    assert ended[needed - 1] == [(worker_peer(rank), EpochEnd(0)) for rank in range(4)]


def test_an_epoch_ends_when_those_who_are_not_through_leave() -> None:
    control = controller(workers=2)
    say(control, 0, EpochDone, 0)
    assert bodies(say(control, 1, Done, ""), EpochEnd) == [(worker_peer(0), EpochEnd(0))]


def test_who_is_an_epoch_ahead_counts_for_the_one_before() -> None:
    control = controller(workers=2)
    say(control, 0, EpochDone, 1)
    assert bodies(say(control, 1, EpochDone, 0), EpochEnd)[0][1] == EpochEnd(0)
    assert bodies(say(control, 1, EpochDone, 1), EpochEnd)[0][1] == EpochEnd(1)


def test_examples_that_were_left_out_are_counted_per_epoch() -> None:
    control = controller()
    say(control, 0, Skipped, 0, 100)
    say(control, 1, Skipped, 0, 20)
    say(control, 1, Skipped, 3, 1)
    assert control.skipped == {0: 120, 3: 1}


def test_a_run_may_start_at_any_epoch() -> None:
    """A job that was restored from a checkpoint goes on at epoch 5000."""
    assert bodies(say(controller(workers=1), 0, EpochDone, 5000), EpochEnd)[-1][1] == EpochEnd(5000)


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_a_worker_without_progress_is_lost_when_its_lease_runs_out() -> None:
    control = controller(shards=2, lease_s=10.0)
    say(control, 0, Progress, Clock(3), now=8.0)
    assert control.next_timer() == 10.0
    assert control.on_timer(10.0) == []
    lost = bodies(control.on_timer(10.1), Lost)
    assert lost == [("server:0", Lost(WorkerId(1), 1, False)), ("server:1", Lost(WorkerId(1), 1, False))]
    assert control.next_timer() == 18.0 and control.live == [0]


@pytest.mark.parametrize(
    ("kind", "values"), [(Progress, (Clock(1),)), (Barrier, (1, True)), (Log, (Clock(1), 0.0, (), ()))]
)
def test_every_message_is_a_sign_of_life(kind: type, values: tuple[Any, ...]) -> None:
    control = controller(workers=1, lease_s=10.0)
    say(control, 0, kind, *values, now=5.0)
    assert control.next_timer() == 15.0


def test_without_a_lease_nobody_is_lost_by_silence() -> None:
    control = controller()
    assert control.next_timer() == float("inf") and control.on_timer(1e9) == []


def test_a_lost_worker_is_waited_for_and_then_named() -> None:
    control = controller(on_worker_loss="wait", restart_s=30.0)
    say(control, 1, Progress, Clock(7))
    assert bodies(control.worker_lost(1, "its process ended", 100.0), Lost) == [
        ("server:0", Lost(WorkerId(1), 1, True))
    ]
    assert control.next_timer() == 130.0 and control.live == [0, 1]
    assert control.on_timer(130.0) == []
    [(peer, stop)] = bodies(control.on_timer(130.1), Stop)
    assert (peer, stop) == ("worker:0", Stop("worker 1 was lost at clock 7 and not back in 30 s", True))
    assert control.next_timer() == float("inf")


def test_a_restarted_worker_is_told_of_barriers_before_its_first_clock() -> None:
    """Two of them, the third was after a clock; what it waited at when it died was not opened."""
    control = controller(workers=2, on_worker_loss="wait")
    for number in (1, 2):
        say(control, 0, Barrier, number, False), say(control, 1, Barrier, number, False)
    say(control, 1, Barrier, 3, True)
    control.worker_lost(1, "killed", 0.0)
    assert (enroll(control, 1).barriers, enroll(control, 1).passed) == (2, 2)
    control.worker_lost(0, "killed", 0.0)
    say(control, 0, Barrier, 3, False)
    early = controller(workers=2, on_worker_loss="wait")
    say(early, 0, Barrier, 1, False)
    early.worker_lost(0, "killed", 0.0)
    assert enroll(early, 0).passed == 0


def test_a_lost_worker_that_comes_back_in_time_is_running() -> None:
    control = controller(on_worker_loss="wait", restart_s=30.0)
    control.worker_lost(1, "its process ended", 100.0)
    assert enroll(control, 1, now=120.0).incarnation == 2
    assert control.on_timer(1000.0) == [] and control.stopped is None


def test_when_nobody_is_left_the_job_has_failed() -> None:
    control = controller()
    assert bodies(control.worker_lost(0, "killed", 0.0), Stop) == []
    control.worker_lost(1, "out of memory", 0.0)
    assert control.stopped == Stop("worker 1 was lost (out of memory), and no other is left", True)


def test_a_loss_is_told_once() -> None:
    control = controller()
    control.worker_lost(1, "killed", 0.0)
    assert control.worker_lost(1, "killed", 0.0) == control.worker_lost(99, "never heard of", 0.0) == []


def test_a_lost_server_names_its_slices() -> None:
    control = controller(shards=2)
    say(control, 0, Register, 0, tuple(spec(f"w{i}", 64, 64) for i in range(10)))
    [(_, stop), _] = bodies(control.server_lost(0, "its process ended", 0.0), Stop)
    assert stop.reason == (
        "server 0 was lost (its process ended) with the only copy of 'w0', 'w2', 'w4' and 2 more; start the run again"
    )
    empty = controller(shards=2)
    empty.server_lost(1, "killed", 0.0)
    assert empty.stopped is not None and "before it held any values; start" in empty.stopped.reason


# ---- the end --------------------------------------------------------------------------------------------------------


def test_the_job_ends_when_all_workers_are_done() -> None:
    control = controller()
    assert bodies(say(control, 0, Done, ""), Stop) == [] and control.stopped is None
    say(control, 1, Done, "")
    assert control.stopped == Stop("all workers are done", False)


TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 3\nZeroDivisionError: division by zero'


def test_the_first_failure_is_carried_word_for_word() -> None:
    control = controller(workers=3)
    say(control, 1, Progress, Clock(12))
    sends = say(control, 1, Done, TRACEBACK)
    stop = Stop(f"worker 1 failed at clock 12:\n{TRACEBACK}", True)
    assert bodies(sends, Stop) == [("worker:0", stop), ("worker:2", stop)]
    assert bodies(sends, Lost) == [("server:0", Lost(WorkerId(1), 1, False))]
    assert bodies(say(control, 2, Done, "ValueError: a consequence"), Stop) == []
    assert control.stopped == stop


def test_a_stop_reaches_every_running_worker_and_reader_once() -> None:
    control = controller(workers=3)
    control.handle(READER, Enroll(WorkerId(-1), True, 0), 0.0)
    say(control, 2, Done, "")
    stop = Stop("the loss is low enough", False)
    assert bodies(control.handle(worker_peer(0), stop, 0.0), Stop) == [
        ("worker:0", stop),
        ("worker:1", stop),
        ("reader:0", stop),
    ]
    assert control.handle(worker_peer(1), Stop("me too", False), 0.0) == [] and control.stopped == stop


# ---- what is passed on ----------------------------------------------------------------------------------------------


def test_a_rate_is_in_force_once_every_shard_has_confirmed_it() -> None:
    control = controller(shards=2)
    change = Rate(1, 0.01, Clock(100))
    assert say(control, 1, SetLr, 5, 0.01, Clock(100)) == [Send(server_peer(0), change), Send(server_peer(1), change)]
    assert control.handle(server_peer(1), Confirmed(1, 1), 0.0) == []
    assert control.handle(server_peer(1), Confirmed(1, 1), 0.0) == [], "one shard twice"
    assert control.handle(server_peer(0), Confirmed(0, 1), 0.0) == [Send(worker_peer(1), LrSet(5))]


def test_a_version_that_every_shard_with_slices_has_committed_is_told_to_them() -> None:
    control = controller(shards=3)
    say(control, 0, Register, 0, tuple(spec(f"w{i}", 64, 64) for i in range(2)))
    first, second = (int(shard) for shard in control.batches.map.shard_S)
    assert control.handle(server_peer(first), Committed(first, 2), 0.0) == []
    told = control.handle(server_peer(second), Committed(second, 1), 0.0)
    assert told == [Send(server_peer(first), CommittedByAll(1)), Send(server_peer(second), CommittedByAll(1))]
    assert control.handle(server_peer(second), Committed(second, 1), 0.0) == [], "a copy"
    assert len(control.handle(server_peer(second), Committed(second, 5), 0.0)) == 2
    assert control.committed_by_all == 2


def test_the_clock_of_the_run_is_that_of_the_slowest_running_worker() -> None:
    control = controller(workers=3)
    for rank, clock in enumerate((5, 3, 1)):
        say(control, rank, Progress, Clock(clock))
    assert control.clock() == 1
    say(control, 2, Done, "")
    assert control.clock() == 3


def test_a_message_that_is_not_for_the_controller_is_refused() -> None:
    sends = controller().handle(server_peer(0), Enrolled(WorkerId(0), 1, 7, 1, ""), 0.0)
    assert sends == [Send(server_peer(0), Rejected(0, "controller: no use for a Enrolled", False))]
    assert say(controller(), 0, Join) == []
