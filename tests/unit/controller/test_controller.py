"""Membership, losses and the end: messages in, messages out."""

from __future__ import annotations

from typing import Any

import pytest

from ps.controller.actions import Send
from ps.messages import (
    Barrier,
    Committed,
    CommittedByAll,
    Confirmed,
    Done,
    Enroll,
    Enrolled,
    Join,
    Log,
    Lost,
    LrSet,
    Placed,
    Progress,
    Rate,
    Register,
    Rejected,
    SetLr,
    Stop,
    Waiting,
)
from ps.types import Clock, WorkerId, server_peer, worker_peer
from tests.unit.controller.controls import CONFIG, READER, bodies, controller, enroll, say, spec, to

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
