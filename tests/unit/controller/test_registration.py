"""Placement of parameters, barriers and data epochs: messages in, messages out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ps.controller.actions import Send
from ps.errors import ConfigError
from ps.keyspace import Options
from ps.messages import (
    Barrier,
    BarrierOpen,
    BatchReady,
    Done,
    Enroll,
    Enrolled,
    EpochDone,
    EpochEnd,
    Place,
    Placed,
    Register,
    Registered,
    Rejected,
    Skipped,
    Spec,
    Waiting,
)
from ps.types import Clock, WorkerId, server_peer, worker_peer
from tests.unit.controller.controls import READER, SPECS, bodies, controller, enroll, say, spec, to

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
