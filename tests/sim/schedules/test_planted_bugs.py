"""Bugs planted in the cores, one at a time: the schedules must find each, by the check that is made for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ps.buffers import Buffer
from ps.consistency.bsp import BulkSynchronous
from ps.consistency.ssp import StaleSynchronous
from ps.messages import Ask, Push
from ps.server.arrivals import Arrivals
from ps.server.core import Shard
from ps.server.rounds import Rounds
from ps.server.values import Values
from ps.testing.schedules import Report, check_schedule, draw_schedule, run_schedule, shorten
from ps.types import Bool, Int64
from ps.worker.arrays import Arrays

SEEDS = range(25)


# ---- the bugs -----------------------------------------------------------------------------------------------------


def never_answers(self: Shard, ask: Ask) -> None:
    """Lost ack: a final verdict that is lost on its way is not sent again."""


def forgets_verdicts(self: Shard, worker: int, index: int, seq: int) -> list[Any]:
    """Lost ack, where pushes commit on arrival: a push that comes again gets no verdict."""
    return []


def takes_twice(self: Shard, push: Push, push_once: Callable[[Shard, Push], None] = Shard._push) -> None:
    """Double apply: a push that comes again after its verdict is taken again."""
    index_E = self.slices.local(push.slice_E)
    again_E = push.seq_E <= self.ledger.last_WS[push.worker, index_E]
    self.engine.admitted_WS[push.worker, index_E[again_E]] = push.seq_E[again_E] - 1
    push_once(self, push)


def one_clock_more(self: StaleSynchronous, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
    return clock_E - min_clock_E <= self.staleness + 1


def one_version_less(self: BulkSynchronous, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
    return version_E >= clock_E - 1


def keeps_nothing(
    self: Arrays, push: int, slice_id: int, refused: bool, lr: float, settle: Callable[..., None] = Arrays.settle
) -> None:
    """Forgotten refund: what was refused does not go back into the residual."""
    settle(self, push, slice_id, False, lr)


def all_has_arrived(self: Arrivals | Rounds, worker: int) -> Int64:
    """A tick closes its clock though pushes of it are still under way."""
    return np.full(len(self.ledger.ids_S), 2**62)


def counts_no_holder(self: Values, index: int, version: int, current_version: int) -> Buffer:
    """Torn read: a reply shares the array without holding it, so the next commit writes into it."""
    held = self.current[index] if version == current_version else self.kept[index][version]
    return Buffer(self.pool, held.array, lent=True)


@dataclass(frozen=True)
class Planted:
    """A bug, the model that shows it, and the checks that may find it first."""

    where: type[Any]
    method: str
    bug: Callable[..., Any]
    model: str
    checks: tuple[str, ...]
    drawn: dict[str, Any] = field(default_factory=dict)


BUGS = {
    "lost ack, gathered": Planted(Shard, "_ask", never_answers, "bsp", ("liveness",)),
    "lost ack, on arrival": Planted(Shard, "_stored", forgets_verdicts, "ssp:staleness=2", ("liveness",)),
    "double apply": Planted(Shard, "_push", takes_twice, "async", ("exactly once",)),
    "double apply, gathered": Planted(Shard, "_push", takes_twice, "bsp", ("exactly once",)),
    "gate one clock late": Planted(StaleSynchronous, "gate", one_clock_more, "ssp:staleness=1", ("reads",)),
    "gate one version early": Planted(BulkSynchronous, "gate", one_version_less, "bsp", ("reads",)),
    "forgotten refund": Planted(
        Arrays, "settle", keeps_nothing, "quorum:n=2", ("frames",), {"push": "none:error_feedback=true"}
    ),
    "tick overtakes push": Planted(Arrivals, "prefix_S", all_has_arrived, "ssp:staleness=2", ("clocks", "reads")),
    "tick overtakes push, gathered": Planted(Rounds, "prefix_S", all_has_arrived, "bsp", ("clocks",)),
    "tick overtakes push, by version": Planted(Rounds, "prefix_S", all_has_arrived, "quorum:n=2", ("clocks",)),
    "writes what is held": Planted(Values, "hold", counts_no_holder, "async", ("values",)),
}


def first_broken(planted: Planted, faults_min: int = 0) -> Report | None:
    """The first schedule of SEEDS that breaks a promise, of those with so many faults."""
    schedules = (draw_schedule(seed, planted.model, **planted.drawn) for seed in SEEDS)
    reports = (run_schedule(one, planted.model) for one in schedules if len(one.faults) >= faults_min)
    return next((report for report in reports if report.broken), None)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_by_its_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = BUGS[name]
    with monkeypatch.context() as patched:
        patched.setattr(planted.where, planted.method, planted.bug)
        report = first_broken(planted)
    assert report is not None, f"{name}: not found by {SEEDS}"
    assert report.check in planted.checks, f"{name}: seed {report.schedule.seed}: found by {report.broken[0]}"
    check_schedule(report.schedule, planted.model)  # without the bug it passes


def test_a_broken_schedule_is_shortened_and_breaks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = BUGS["double apply"]
    monkeypatch.setattr(planted.where, planted.method, planted.bug)
    report = first_broken(planted, faults_min=5)
    assert report is not None
    long = report.schedule
    short = shorten(long, lambda one: run_schedule(one, planted.model).check == report.check)
    assert len(short.faults) < len(long.faults), f"seed {long.seed}: {short}"
    assert short.clocks <= long.clocks and set(short.faults) <= set(long.faults)
    assert run_schedule(short, planted.model).check == report.check
    with pytest.raises(AssertionError) as failure:
        check_schedule(long, planted.model)
    assert f"seed {long.seed}: exactly once" in str(failure.value)
    assert f"shortened: {short}" in str(failure.value), "two walks, one result"


def test_a_schedule_runs_the_same_twice() -> None:
    for model in ("bsp", "ssp:staleness=2", "quorum:n=2"):
        for seed in range(5):
            schedule = draw_schedule(seed, model)
            assert schedule == draw_schedule(seed, model)
            assert run_schedule(schedule, model) == run_schedule(schedule, model), f"{model}: seed {seed}"
