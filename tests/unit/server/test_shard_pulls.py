"""What a shard answers to pulls, and at which rate: events in, actions out."""

from __future__ import annotations

import numpy as np

from ps.messages import Read
from ps.types import PeerId
from tests.scenarios.drive import Drive, show, values

READER = PeerId("reader:0")


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
