"""The shard's rules, one by one: events in, actions out. Which model holds whom is in unit/consistency.

`Drive` says an event per word and gives a line per action; in the lines `2#5` is push number 5 on slice 2.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps import wire
from ps.errors import PeerError
from ps.messages import Done, Place, Push, Read, Spec, Waiting
from ps.server.ledger import Commit, Ledger, Refused
from ps.types import Clock, PeerId, WorkerId
from tests.scenarios.drive import Drive, show

READER = PeerId("reader:0")


def values(lines: list[str], worker: int) -> list[str]:
    """What pulls of this worker were answered: `0 v1, 1 v1`."""
    start = f"worker:{worker} <- values for pull"
    return [line.split(": ", 1)[1].split(";")[0] for line in lines if line.startswith(start)]


def said(lines: list[str], to: str) -> list[str]:
    """The messages to one peer."""
    return [line.removeprefix(f"{to} <- ") for line in lines if line.startswith(f"{to} <- ")]


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


# ---- pulls ----------------------------------------------------------------------------------------------------------


def test_a_pull_is_answered_with_versions_clock_and_rate() -> None:
    shard = Drive("async", workers=2, slices=2)
    shard.step(0)
    shard.step(1, slices=[1])
    assert shard.pull(0) == ["worker:0 <- values for pull 1: 0 v1, 1 v2; min clock 1; lr 0.1 x 0.5"]
    assert shard.pull(0, slices=[1]) == ["worker:0 <- values for pull 2: 1 v2; min clock 1; lr 0.1 x 0.5"]


def test_a_pull_sees_the_workers_own_pushes() -> None:
    shard = Drive("async", workers=2)
    assert shard.pull(0, number=1) == [], "it overtook the push"
    shard.push(0, number=1)
    assert values(shard.applied(), 0) == ["0 v1"]


def test_a_pull_does_not_overtake_the_tick_before_it() -> None:
    shard = Drive("async", workers=1)
    assert shard.pull(0, clock=1) == []
    assert values(shard.tick(0), 0) == ["0 v0"]


def test_a_pull_waits_for_a_clock_that_is_open_on_its_slices() -> None:
    shard = Drive("async", workers=1, slices=2)
    shard.tick(0, number=[1, 0])
    assert values(shard.pull(0, slices=[1], number=0), 0) == ["1 v0"]
    assert shard.pull(0, slices=[0], number=0) == []
    assert values(shard.push(0, slices=[0], number=1, clock=0) + shard.settle(), 0) == ["0 v1"]


def test_a_pull_waits_for_the_initial_values_and_says_so() -> None:
    shard = Drive("async", workers=2, slices=0)
    shard.place(2)
    shard.join(0)
    shard.init(0, slices=[0])
    assert shard.pull(0, id=1) == []
    assert shard.pull(0, id=1) == ["worker:0 <- waiting for worker -1 at clock 0 on 1, silent 0 s"]
    assert values(shard.init(0), 0) == ["0 v0, 1 v0"]


def test_a_parked_pull_that_is_asked_again_says_for_whom_it_waits() -> None:
    shard = Drive("ssp:staleness=0", workers=3)
    shard.now = 4.0
    shard.step(1)
    shard.now = 10.0
    shard.step(0)
    shard.pull(0, id=1)
    shard.now = 13.0
    assert shard.pull(0, id=1) == ["worker:0 <- waiting for worker 2 at clock 0 on 0, silent 13 s"]
    shard.step(2)
    assert shard.pull(0, id=1) == ["worker:0 <- values for pull 1: 0 v3; min clock 1; lr 0.1 x 0.333333"]


def test_a_worker_that_never_joined_was_never_heard_of() -> None:
    shard = Drive("ssp:staleness=0", workers=2, slices=0)
    shard.place()
    shard.join(0)
    shard.init(0)
    shard.step(0)
    shard.pull(0, id=1)
    assert shard.pull(0, id=1) == ["worker:0 <- waiting for worker 1 at clock 0 on 0, silent -1 s"]


def test_a_pull_that_waits_for_its_own_push_names_the_worker_itself() -> None:
    shard = Drive("async", workers=2)
    shard.pull(0, id=1, number=1)
    assert shard.pull(0, id=1, number=1) == ["worker:0 <- waiting for worker 0 at clock 0 on 0, silent 0 s"]
    shard.pull(0, id=2, slices=[], clock=3)
    assert shard.pull(0, id=2, slices=[], clock=3) == ["worker:0 <- waiting for worker 0 at clock 0 on -1, silent 0 s"]


def test_a_pull_that_nobody_waits_for_any_more_is_forgotten() -> None:
    shard = Drive("ssp:staleness=0")
    shard.step(0)
    shard.pull(0, id=1)
    shard.pull(0, id=2, oldest=2)
    lines = shard.step(1)
    assert [line.split(":")[1] for line in lines if "values" in line] == ["0 <- values for pull 2"]
    assert shard.pull(0, id=1, oldest=1) == [], "a late copy"


def test_how_long_a_pull_was_parked_and_who_opened_it_is_measured() -> None:
    shard = Drive("ssp:staleness=0")
    shard.step(0)
    shard.pull(0)
    shard.now = 2.5
    assert "waited worker 0: 2.5 s for worker 1" in shard.step(1)


def test_a_reader_gets_what_there_is_and_counts_in_no_clock() -> None:
    shard = Drive("bsp", slices=0)
    shard.place(2)
    assert shard.shard.read(READER, Read(7, np.array([0, 1])), 0.0) == [], "no initial values: it asks again"
    shard.init(0)
    lines = [show(action) for action in shard.shard.read(READER, Read(8, np.array([1])), 0.0)]
    assert lines == ["reader:0 <- values for pull 8: 1 v0; min clock 0; lr 0.1 x 1"]


# ---- members --------------------------------------------------------------------------------------------------------


def test_a_joiner_starts_at_the_open_clock_and_counts_from_there() -> None:
    shard = Drive("bsp")
    for worker in (0, 1, 0, 1):
        shard.step(worker)
    assert shard.join(2)[-1] == "worker:2 <- welcome as joiner, clock 2: 0#0 clock 2"
    shard.step(0)
    shard.step(1)
    assert shard.shard.ledger.version_S.tolist() == [2], "it waits for the joiner"
    assert "apply 0 -> v3: worker 0#3, worker 1#3, worker 2#1; lr 0.1" in shard.step(2)


def test_a_joiner_takes_no_minimum_back() -> None:
    shard = Drive("ssp:staleness=0")
    for worker in (0, 1, 0, 1, 0):
        shard.step(worker)
    shard.join(2)
    assert shard.shard.ledger.min_clock_S().tolist() == [2]
    assert shard.books[2].clock == 2


def test_a_leaver_leaves_the_minimum() -> None:
    shard = Drive("ssp:staleness=0")
    shard.step(0)
    shard.pull(0)
    lines = shard.leave(1)
    assert said(lines, "worker:1") == ["leave done"] and values(lines, 0) == ["0 v1"]
    assert shard.leave(1) == ["worker:1 <- leave done"]


def test_what_a_leaver_had_finished_counts() -> None:
    shard = Drive("bsp")
    shard.step(0)
    shard.leave(0)
    assert "apply 0 -> v1: worker 0#1, worker 1#1; lr 0.1" in shard.step(1)


def test_the_round_of_a_lost_worker_is_discarded_and_the_others_go_on() -> None:
    shard = Drive("bsp")
    shard.push(0)
    shard.step(1)
    assert shard.lost(0) == [
        "drop worker 0 above: 0#0",
        "log left worker 0, incarnation 1",
        "apply 0 -> v1: worker 1#1; lr 0.1",
    ]


def test_a_lost_worker_that_is_waited_for_keeps_its_place() -> None:
    shard = Drive("bsp")
    shard.step(1)
    assert shard.lost(0, wait=True) == []
    assert shard.push(0)[0] == "keep worker 0: 0#1"


def test_news_of_a_loss_that_a_restart_has_overtaken_are_passed_over() -> None:
    shard = Drive("bsp")
    shard.join(0, incarnation=2)
    assert shard.lost(0, incarnation=1) == []


def test_a_lost_worker_comes_back_as_a_joiner_and_its_numbers_go_on() -> None:
    shard = Drive("bsp")
    shard.step(0)
    shard.step(1)
    shard.push(0)
    shard.lost(0)
    shard.step(1)
    assert shard.join(0, incarnation=2)[-1] == "worker:0 <- welcome as joiner, clock 2: 0#1 clock 2"


def test_queued_pushes_of_a_restarted_worker_are_dropped_but_not_the_one_in_flight() -> None:
    shard = Drive("async")
    for _ in range(3):
        shard.push(0)
    assert shard.join(0, incarnation=2)[0] == "drop worker 0 above: 0#1"
    assert shard.settle() == ["log commit 0 v1", "worker:0 <- verdicts 0#1 applied v1"]
    assert "keep worker 0: 0#2" in shard.push(0)


def test_a_restarted_worker_goes_on_where_its_finished_clocks_end() -> None:
    shard = Drive("bsp", slices=2, keep=True)
    shard.push(0, slices=[0])
    shard.tick(0, number=[1, 1])
    shard.step(1)
    assert shard.shard.ledger.version_S.tolist() == [1, 0], "slice 1 has lost its push"
    assert shard.join(0, incarnation=2)[-1] == "worker:0 <- welcome, clock 0: 0#1 clock 1, 1#0 clock 0"
    assert values(shard.pull(0), 0) == ["0 v0, 1 v0"], "exactly the versions of its clock"
    assert "apply 1 -> v1: worker 0#1, worker 1#1; lr 0.1" in shard.push(0, slices=[1]) + shard.tick(0)


def test_kept_versions_go_when_all_shards_have_committed_them() -> None:
    shard = Drive("bsp", slices=2, keep=True)
    shard.push(0, slices=[0])
    shard.tick(0, number=[1, 1])
    assert "controller <- committed clock 1" not in shard.step(1)
    lines = shard.push(0, slices=[1], clock=0) + shard.settle()
    assert "controller <- committed clock 1" in lines
    assert values(shard.pull(0, clock=0), 0) == ["0 v0, 1 v0"]
    assert shard.committed_by_all(1) == ["forget below 0 v1, 1 v1"]
    assert shard.pull(0, clock=0) == [], "nobody who lives asks for it"


def test_without_kept_versions_a_restarted_worker_reads_what_there_is() -> None:
    shard = Drive("bsp", slices=2)
    shard.push(0, slices=[0])
    shard.tick(0, number=[1, 1])
    shard.step(1)
    shard.join(0, incarnation=2)
    assert values(shard.pull(0), 0) == ["0 v1, 1 v0"]


# ---- new slices in mid-run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["bsp", "ssp:staleness=0", "quorum:n=2", "local:every=1,local_lr=0.1", "async"])
def test_new_slices_join_a_run(model: str) -> None:
    shard = Drive(model)
    for worker in (0, 1, 0, 1):
        shard.step(worker)
        shard.pull(worker)
    assert shard.place()[-1] == "controller <- placed, epoch 2"
    shard.pull(1)
    lines = shard.init(0, slices=[1]) + shard.settle() + shard.pull(0)
    assert len(values(lines, 0)) == len(values(lines, 1)) == 1
    for worker in (0, 1):
        assert "ticked 2" in said(shard.step(worker), f"worker:{worker}")
    assert len(values(shard.pull(0), 0)) == 1


def test_new_slices_do_not_disturb_a_commit_in_flight() -> None:
    shard = Drive("bsp")
    shard.step(0)
    shard.push(1)
    shard.tick(1)
    shard.place()
    assert shard.push(0, slices=[0]) == ["keep worker 0: 0#2", "worker:0 <- verdicts 0#2 gathered"]
    shard.settle()
    assert shard.shard.ledger.version_S.tolist() == [1, 1] and shard.shard.ledger.number_S.tolist() == [1, 0]


def test_new_slices_are_closed_for_a_tick_that_waits() -> None:
    shard = Drive("bsp")
    shard.tick(0, clock=0, number=1)
    shard.place()
    assert "ticked 0" in said(shard.push(0, slices=[0], clock=0, number=1), "worker:0")


def test_pulls_of_new_slices_open_without_another_tick() -> None:
    """A message between Place and Init must not swallow the round that nobody had to push in."""
    shard = Drive("quorum:n=2")
    for worker in (0, 1):
        shard.step(worker)
    for worker in (0, 1):
        shard.pull(worker)
    shard.place()
    shard.push(1, slices=[0])
    shard.pull(1)
    assert len(values(shard.init(0, slices=[1]) + shard.settle(), 1)) == 1


def test_a_placement_that_comes_again_changes_nothing() -> None:
    shard = Drive("bsp", slices=0)
    spec = Spec("w", (64, 64), "float32", 1.0, None, None, None, False, 1 << 20)
    placed = Place(0, (spec,), 1, np.array([0]))
    assert shard.handle(placed) == ["log added 0 at v0", "controller <- placed, epoch 1"]
    assert shard.handle(placed) == ["controller <- placed, epoch 1"]


def test_a_placement_that_does_not_fit_its_parameters_is_refused() -> None:
    spec = Spec("w", (64, 64), "float32", 1.0, None, None, None, False, 1 << 20)
    with pytest.raises(PeerError, match="placement map: expected 1 new slices, got 2"):
        Drive("bsp", slices=0).handle(Place(0, (spec,), 1, np.array([0, 0])))
    with pytest.raises(PeerError, match="controller: parameter 'w': expected a new name"):
        Drive("bsp", slices=0).handle(Place(0, (spec, spec), 1, np.array([0, 0])))


def test_the_first_initial_values_stay() -> None:
    shard = Drive("async", workers=2, slices=0)
    shard.place(2)
    assert shard.init(0, slices=[0])[:2] == ["store 0", "log initialised 0"]
    assert shard.init(1)[:2] == ["store 1", "log initialised 1"]
    assert shard.init(1) == ["worker:1 <- init done 0,1"]


# ---- learning rate --------------------------------------------------------------------------------------------------


def test_a_rate_that_was_set_holds_from_its_clock_on() -> None:
    shard = Drive("bsp", workers=1)
    assert shard.set_lr(0.5, clock=1) == ["log lr 0.5 from clock 1", "controller <- confirmed 1"]
    assert "apply 0 -> v1: worker 0#1; lr 0.1" in shard.step(0)
    assert "apply 0 -> v2: worker 0#2; lr 0.5" in shard.step(0)
    assert shard.pull(0) == ["worker:0 <- values for pull 1: 0 v2; min clock 2; lr 0.5 x 1"]


def test_models_that_apply_on_arrival_share_the_rate_with_who_is_done_but_not_with_who_is_lost() -> None:
    shard = Drive("async", workers=4)
    assert "apply 0 -> v1: worker 0#1; lr 0.025" in shard.step(0)
    shard.leave(3)
    shard.leave(2)
    shard.pull(0)
    assert "apply 0 -> v2: worker 0#2; lr 0.025" in shard.step(0)
    shard.lost(1)
    shard.pull(0)
    assert f"apply 0 -> v3: worker 0#3; lr {0.1 / 3:g}" in "; ".join(shard.step(0))


# ---- delay compensation ---------------------------------------------------------------------------------------------


def test_what_was_sent_is_logged_where_the_optimizer_needs_it() -> None:
    shard = Drive("async", slices=2, rule="dcasgd:lam=0.1+sgd:lr=0.1")
    assert shard.pull(1, slices=[1])[-1] == "log sent worker 1: 1"


# ---- any schedule ---------------------------------------------------------------------------------------------------

ALL_MODELS = [
    "bsp",
    "ssp:staleness=1",
    "async",
    "quorum:n=2",
    "local:every=2,local_lr=0.1",
    "async_local:every=2,local_lr=0.1",
    "easgd:alpha=0.3,every=2,local_lr=0.1",
    "downpour:push_every=2,warm_start=2",
]


def wander(shard: Drive, seed: int, events: int) -> list[str]:
    """Honest workers in any order, with copies, restarts, losses, joiners, new slices and slow applies."""
    random, lines = Random(seed), []
    for number in range(events):
        shard.now = float(number)
        worker = random.choice(sorted(shard.books))
        books = shard.books[worker]
        match random.choices(
            ["push", "tick", "pull", "applied", "again", "restart", "lost", "join", "leave", "place"],
            [9, 9, 6, 9, 3, 0.4, 0.2, 0.2, 0.1, 0.3],
        )[0]:
            case "push":
                lines += shard.push(worker)
            case "tick":
                lines += shard.tick(worker)
            case "pull":
                lines += shard.pull(worker)
            case "applied" if shard.applies:
                lines += shard.applied()
            case "again":
                numbers = [max(number - random.randrange(3), 0) for number in books.number.values()]
                lines += shard.push(worker, slices=list(books.number), number=numbers)
            case "restart":
                lines += shard.join(worker, books.incarnation + 1)
            case "lost":
                lines += shard.lost(worker)
            case "join" if len(shard.books) < 6:
                lines += shard.join(len(shard.books))
            case "leave":
                lines += shard.leave(worker)
            case "place" if shard.slices < 4:
                lines += shard.place() + shard.init(0)
    return lines + shard.settle()


@pytest.mark.parametrize("model", ALL_MODELS)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_after_any_schedule_the_log_tells_all_and_every_push_counts_once(model: str, seed: int) -> None:
    shard = Drive(model, workers=3, slices=2)
    lines = wander(shard, seed, events=80)
    replayed = Ledger(3)
    versions: dict[int, int] = {}
    settled: set[tuple[int, int, int]] = set()
    for record in shard.records:
        if isinstance(record, Commit):
            assert record.version == versions.get(record.slice, record.version - 1) + 1, "versions run without gaps"
            versions[record.slice] = record.version
            ends = [(push.worker, record.slice, push.seq) for push in record.contributions]
            ends += [(worker, record.slice, seq) for worker, seq in record.late]
        elif isinstance(record, Refused):
            ends = [(record.worker, record.slice, record.seq)]
        else:
            ends = []
        assert not settled & set(ends) and len(set(ends)) == len(ends), "one verdict for each push"
        settled |= set(ends)
        replayed.apply(record)
    assert replayed.state() == shard.shard.ledger.state()
    again = Drive(model, workers=3, slices=2)
    assert wander(again, seed, events=80) == lines, "same events, same actions"


# ---- any message at all ---------------------------------------------------------------------------------------------


def any_value(kind: wire.Kind, length: int, random: Random) -> Any:
    """Values that come near what the shard knows, and some that are far off."""
    numbers = [0, 0, 1, 1, 2, 3, 2**62]
    if "i8" in kind.expected:
        return np.array([random.choice(numbers) for _ in range(length)], np.int64)
    if "u1" in kind.expected:
        return np.array([random.choice([0, 1, 2, 3, 255]) for _ in range(length)], np.uint8)
    if "Spec" in kind.expected:
        return tuple(
            Spec(random.choice("ab"), (64, 64), "float32", 1.0, None, None, None, False, 1 << 20) for _ in range(length)
        )
    if kind.expected.startswith("a list"):
        return ()
    if "integer" in kind.expected:
        return random.choice([-1, 0, 1, 2, 3] if kind is wire.RANK else numbers)
    return {"a boolean": random.random() < 0.5, "a finite float": random.choice([-1.0, 0.0, 1e300])}.get(
        kind.expected, ""
    )


@settings(max_examples=40)
@given(model=st.sampled_from(ALL_MODELS), keep=st.booleans(), seed=st.integers(0, 10**6))
def test_no_message_however_odd_stops_a_shard(model: str, keep: bool, seed: int) -> None:
    random = Random(seed)
    shard = Drive(model, keep=keep)
    classes = [cls for cls in wire.CODES.values() if cls is not Read]  # the runtime answers readers itself
    for _ in range(60):
        cls = random.choice(classes[:7] if random.random() < 0.8 else classes)
        length = random.randrange(3)
        message = cls(*(any_value(kind, length, random) for kind in wire._layout(cls).kinds))
        with suppress(PeerError):
            shard.shard.handle(message, 0.0)
