"""The shard's rules, one by one: events in, actions out. Which model holds whom is in unit/consistency.

`Drive` says an event per word and gives a line per action; in the lines `2#5` is push number 5 on slice 2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ps.errors import PeerError
from ps.messages import Done, Push, Waiting
from ps.types import Clock, WorkerId
from tests.scenarios.drive import Drive, said, show

# ---- exactly once ---------------------------------------------------------------------------------------------------


def test_a_push_is_kept_applied_and_answered() -> None:
    shard = Drive("async", workers=1)
    assert shard.push(0) == ["keep worker 0: 0#1", "apply 0 -> v1: worker 0#1; lr 0.1"]
    assert shard.applied() == ["log commit 0 v1", "worker:0 <- verdicts 0#1 applied v1"]


def test_push_numbers_run_without_gaps() -> None:
    shard = Drive("async", workers=1)
    shard.push(0, number=1)
    assert shard.push(0, number=3) == ["worker:0 <- gap, last taken 0#1"]
    assert "keep worker 0: 0#2" in shard.push(0, number=2)
    assert "keep worker 0: 0#3" in shard.push(0, number=3)


def test_each_slice_of_one_push_goes_its_own_way() -> None:
    shard = Drive("async", workers=1, slices=3)
    shard.push(0, slices=[0], number=1)
    shard.settle()
    lines = shard.push(0, number=[1, 1, 2])
    assert said(lines, "worker:0") == ["verdicts 0#1 applied v1", "gap, last taken 2#0"]
    assert "keep worker 0: 1#1" in lines


def test_a_repeat_gets_the_stored_verdict() -> None:
    shard = Drive("async", workers=1)
    shard.push(0, number=1)
    assert shard.push(0, number=1) == [], "it waits for its apply, which will bring the verdict"
    shard.settle()
    shard.push(0, number=2)
    shard.settle()
    assert shard.push(0, number=1) == ["worker:0 <- verdicts 0#1 applied v1"]


def test_a_repeat_of_a_gathered_push_is_gathered_until_its_commit() -> None:
    shard = Drive("bsp")
    shard.push(0, number=1)
    assert shard.push(0, number=1) == ["worker:0 <- verdicts 0#1 gathered"]
    shard.tick(0)
    shard.step(1)
    assert shard.push(0, number=1) == ["worker:0 <- verdicts 0#1 applied v1"]


def test_a_copy_from_long_ago_is_passed_over() -> None:
    shard = Drive("async", workers=1)
    for _ in range(65):
        shard.step(0)
    assert shard.push(0, number=1) == []
    assert shard.push(0, number=2) == ["worker:0 <- verdicts 0#2 applied v2"]


def test_an_ask_gets_the_verdict_or_the_gap() -> None:
    shard = Drive("bsp")
    assert shard.ask(0, number=1) == ["worker:0 <- gap, last taken 0#0"]
    shard.push(0)
    assert shard.ask(0, number=1) == ["worker:0 <- verdicts 0#1 gathered"]
    shard.tick(0)
    shard.step(1)
    assert shard.ask(0, number=1) == ["worker:0 <- verdicts 0#1 applied v1"]


def test_one_apply_is_in_flight_per_slice_and_the_rest_queue() -> None:
    shard = Drive("async", workers=2, slices=2)
    assert "apply 0 -> v1: worker 0#1; lr 0.05" in shard.push(0)
    assert shard.push(1, slices=[0]) == ["keep worker 1: 0#1"]
    assert "apply 0 -> v2: worker 1#1; lr 0.05, staleness 1" in shard.applied()


def test_a_push_before_the_initial_values_is_refused() -> None:
    shard = Drive("async", workers=1)
    shard.place()
    lines = shard.push(0, slices=[1])
    assert lines == ["worker:0 <- rejected: worker 0: pushed a slice that has no initial values yet; pull it first"]


# ---- who may speak --------------------------------------------------------------------------------------------------

EVENTS: list[Callable[[Drive], list[str]]] = [
    lambda shard: shard.push(0, incarnation=1),
    lambda shard: shard.tick(0, incarnation=1),
    lambda shard: shard.pull(0, incarnation=1),
    lambda shard: shard.leave(0, incarnation=1),
]


@pytest.mark.parametrize("event", EVENTS, ids=["push", "tick", "pull", "leave"])
def test_an_old_incarnation_is_fenced(event: Callable[[Drive], list[str]]) -> None:
    shard = Drive("bsp")
    shard.join(0, incarnation=2)
    before = shard.shard.ledger.state()
    why = "worker 0: expected incarnation >= 2, got 1; it was declared lost or restarted"
    assert event(shard) == [f"worker:0 <- rejected and fenced: {why}"]
    assert shard.shard.ledger.state() == before


@pytest.mark.parametrize("event", EVENTS, ids=["push", "tick", "pull", "leave"])
def test_a_worker_that_was_declared_lost_is_fenced(event: Callable[[Drive], list[str]]) -> None:
    shard = Drive("bsp")
    shard.lost(0)
    why = "worker 0: expected incarnation >= 2, got 1; it was declared lost or restarted"
    assert event(shard) == [f"worker:0 <- rejected and fenced: {why}"]


def test_a_message_that_overtook_its_join_comes_again() -> None:
    shard = Drive("async", workers=1)
    assert shard.push(0, number=1, incarnation=2) == []
    shard.join(0, incarnation=2)
    assert "keep worker 0: 0#1" in shard.push(0, number=1)


def test_a_stranger_is_told_to_join() -> None:
    shard = Drive("async", workers=2)
    stranger = Push(WorkerId(5), 1, Clock(0), 1.0, np.array([0]), np.array([1]), np.array([0]))
    assert shard.handle(stranger) == ["worker:5 <- rejected: worker 5: expected a rank below 2; join first"]
    assert shard.join(5)[-1] == "worker:5 <- welcome as joiner, clock 0: 0#0 clock 0"


def test_a_peer_with_bad_numbers_is_fenced() -> None:
    shard = Drive("async", workers=1)
    push = Push(WorkerId(0), 1, Clock(0), 1.0, np.array([0]), np.array([1]), np.array([0]))
    lines = [show(action) for action in shard.shard.on_bad_payload(push, "w0: expected finite numbers", 0.0)]
    assert lines == ["worker:0 <- rejected and fenced: worker 0: w0: expected finite numbers; it is fenced"]
    assert "rejected and fenced" in shard.push(0)[0]


@pytest.mark.parametrize(
    ("slices", "why"),
    [
        ([3], "slice 3: expected one below 3; fetch the placement map"),
        ([0, 2], "slice 2: it does not live on shard 0; fetch placement map 2"),
    ],
)
def test_a_slice_that_does_not_live_here_is_refused(slices: list[int], why: str) -> None:
    shard = Drive("async", workers=1)
    shard.place(slices=1, elsewhere=1)
    assert shard.push(0, slices=slices, number=1) == [f"worker:0 <- rejected: {why}"]
    assert shard.tick(0, slices=slices) == [f"worker:0 <- rejected: {why}"]
    assert shard.pull(0, slices=slices) == [f"worker:0 <- rejected: {why}"]
    assert shard.init(0, slices=slices) == [f"worker:0 <- rejected: {why}"]


@pytest.mark.parametrize("exponent", [-151, -150, -149, 126, 127, 128])
@pytest.mark.parametrize("mantissa", [1.0, 1 + 2.0**-50, 2 - 2.0**-24, 2 - 2.0**-25])
def test_a_weight_is_one_in_float32_or_refused(exponent: int, mantissa: float) -> None:
    weight = mantissa * 2.0**exponent
    with np.errstate(over="ignore"):
        fits = bool(0 < np.float32(weight) < np.inf)
    shard = Drive("async", workers=1)
    shard.place()
    shard.init(0)
    lines = shard.push(0, slices=[0], weight=weight)
    assert ("keep worker 0: 0#1" in lines) == fits
    assert fits or f"worker 0: push weight: expected > 0 and finite in float32, got {weight}" in lines[0]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    shard = Drive("async", workers=1)
    shard.place()
    shard.init(0)
    assert "push weight: expected > 0 and finite in float32" in shard.push(0, slices=[0], weight=weight)[0]


def test_messages_that_are_not_for_servers_are_refused() -> None:
    shard = Drive("async", workers=1)
    lines = shard.handle(Done(WorkerId(0), 1, ""))
    assert lines == ["worker:0 <- rejected: shard 0: expected a message for servers, got Done"]
    with pytest.raises(PeerError, match="expected a message for servers, got Waiting"):
        shard.handle(Waiting(1, 0, WorkerId(0), 0, 0.0))


# ---- what closes a clock --------------------------------------------------------------------------------------------

MODELS = ["bsp", "async"]  # gathered is a verdict, and so is applied


@pytest.mark.parametrize("model", MODELS)
def test_a_tick_after_its_push_closes_the_clock(model: str) -> None:
    shard = Drive(model, workers=1)
    shard.push(0)
    shard.settle()
    assert said(shard.tick(0), "worker:0") == ["ticked 0"]


@pytest.mark.parametrize("model", MODELS)
def test_a_tick_that_overtook_its_push_waits_for_it(model: str) -> None:
    shard = Drive(model, workers=1)
    assert shard.tick(0, number=1) == []
    assert "ticked 0" in said(shard.push(0, clock=0, number=1) + shard.settle(), "worker:0")


def test_a_clock_waits_for_all_its_pushes() -> None:
    shard = Drive("bsp", workers=1)
    shard.push(0, number=1)
    shard.push(0, number=2)
    assert shard.tick(0, number=3) == []
    assert "apply 0 -> v1: worker 0#1, worker 0#2, worker 0#3; lr 0.1" in shard.push(0, clock=0, number=3)


@pytest.mark.parametrize("model", MODELS)
def test_no_push_is_no_contribution(model: str) -> None:
    shard = Drive(model, workers=1)
    assert "ticked 0" in said(shard.tick(0, slices=[]), "worker:0")
    assert shard.shard.ledger.number_S.tolist() == [0]


def test_a_push_that_is_queued_keeps_its_clock_open() -> None:
    shard = Drive("async", workers=2)
    shard.push(1)
    shard.push(0)
    assert shard.tick(0) == [], "the apply of worker 1 is in flight, that of worker 0 waits"
    shard.applied()
    assert "ticked 0" in said(shard.applied(), "worker:0")


def test_ticked_goes_out_when_all_slices_are_closed() -> None:
    shard = Drive("bsp", workers=2, slices=2)
    assert shard.tick(0, number=[0, 1]) == []
    assert said(shard.push(0, slices=[1], clock=0, number=1), "worker:0") == ["verdicts 1#1 gathered", "ticked 0"]


def test_a_copy_of_a_tick_is_answered_when_it_is_closed() -> None:
    shard = Drive("bsp")
    shard.tick(0, clock=0, number=1)
    assert shard.tick(0, clock=0, number=1) == []
    shard.push(0, clock=0, number=1)
    assert shard.tick(0, clock=0, number=1) == ["worker:0 <- ticked 0"]


def test_a_tick_that_overtook_the_one_before_closes_both() -> None:
    shard = Drive("async", workers=1)
    shard.tick(0, clock=1, number=0)
    assert shard.tick(0, clock=0, number=0) == ["worker:0 <- ticked 0"]
    assert shard.shard.ledger.clock_WS.tolist() == [[2]]


def test_two_clocks_can_be_open() -> None:
    shard = Drive("bsp", workers=1)
    shard.tick(0, clock=0, number=1)
    shard.tick(0, clock=1, number=2)
    shard.push(0, clock=0, number=1)
    assert "ticked 1" in said(shard.push(0, clock=1, number=2), "worker:0")
    shard.settle()
    assert shard.shard.ledger.version_S.tolist() == [2]
