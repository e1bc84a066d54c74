"""Who joins, leaves or is lost, and slices that come in mid-run: events in, actions out."""

from __future__ import annotations

import numpy as np
import pytest

from ps.errors import PeerError
from ps.messages import Place, Spec
from tests.scenarios.drive import Drive, said, values

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
