"""What every consistency model must hold, as one call for its author's tests: `check_consistency("ssp:staleness=2")`.

One's own model is spelled like everywhere: `check_consistency("package.module:Class:key=value")`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Literal

import numpy as np

from ps.consistency import Cadence, Consistency, Gather, OnArrival, consistency
from ps.testing.schedules import check_schedules
from ps.types import Bool, Int64

LIVE = range(1, 17)  # workers
CLOCKS = (0, 1, 2, 3, 5, 8, 40)
BEYOND = 1 << 40  # a clock or version that is larger than any that a gate may wait for
SCHEDULES = 8  # of each kind


def check_consistency(spec: str, *, schedules: int = SCHEDULES) -> None:
    """Raises AssertionError, saying which rule the model breaks; returns when it holds them all.

    Answers are pure: equal questions, equal answers, nothing written. The gate is element-wise, boolean, for any count
    of slices from 0; it opens when others move on and does not close again; nobody waits for ever. `commit` gives one
    kind for 1 to 16 live workers, with a quorum that they can reach. The cadence can be kept. Last, `schedules` random
    fault schedules where lost workers are waited for, as many where they are dropped, and, where pushes can come too
    late, as many with error feedback.
    """
    model = consistency(spec)
    assert model == consistency(spec), f"{spec}: expected equal models from one spelling"
    _check_commit(spec, model)
    _check_cadence(spec, model)
    _check_gate_answers(spec, model)
    _check_gate_opens(spec, model)
    decision = model.commit(1)
    losses: tuple[Literal["wait", "drop"], ...] = ("wait", "drop")
    for loss in losses:
        check_schedules(spec, range(schedules), on_worker_loss=loss)
    if isinstance(decision, Gather) and decision.by == "version":
        check_schedules(spec, range(schedules), push="none:error_feedback=true")


# ---- the gate -----------------------------------------------------------------------------------------------------


def _questions() -> Iterator[tuple[Int64, Int64, Int64]]:
    """Clocks, least clocks and versions of 0, 1 and many slices, read-only."""
    rows = np.array(list(product(CLOCKS, CLOCKS, CLOCKS)), np.int64)
    for rows_E in (rows[:0], rows[:1], rows):
        columns = [np.ascontiguousarray(column) for column in rows_E.reshape(-1, 3).T]
        for column in columns:
            column.flags.writeable = False
        clock_E, min_clock_E, version_E = columns
        yield clock_E, min_clock_E, version_E


def _ask(spec: str, model: Consistency, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
    try:
        return model.gate(clock_E, min_clock_E, version_E, first)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise AssertionError(f"{spec}: gate: expected its arguments unchanged, got a write: {error}") from error


def _check_gate_answers(spec: str, model: Consistency) -> None:
    for (clock_E, min_clock_E, version_E), first in product(_questions(), (False, True)):
        asked = f"{spec}: gate: of {len(clock_E)} slices"
        answer = _ask(spec, model, clock_E, min_clock_E, version_E, first)
        kind = (type(answer), getattr(answer, "shape", None), getattr(answer, "dtype", None))
        right = kind == (np.ndarray, clock_E.shape, np.dtype(np.bool_))
        assert right, f"{asked} expected a boolean array of shape {clock_E.shape}, got {answer!r}"
        again = _ask(spec, model, clock_E, min_clock_E, version_E, first)
        assert np.array_equal(answer, again), f"{asked} expected the same answer to the same question"
        for start in range(0, len(clock_E), 10):
            part = slice(start, start + start % 3)  # 0 to 2 of them
            alone = _ask(spec, model, clock_E[part], min_clock_E[part], version_E[part], first)
            assert np.array_equal(alone, answer[part]), f"{asked} expected each to open on its own, got all as one"


def _check_gate_opens(spec: str, model: Consistency) -> None:
    """An open gate stays open while others move on; when all have done all, everybody may read."""
    for clock_E, min_clock_E, version_E in _questions():
        for first, more, newer in product((False, True), (0, 1, 3), (0, 1, 3)):
            before = _ask(spec, model, clock_E, min_clock_E, version_E, first)
            after = _ask(spec, model, clock_E, min_clock_E + more, version_E + newer, first)
            shut = np.flatnonzero(before & ~after)
            if len(shut):
                c, m, v = (int(column[shut[0]]) for column in (clock_E, min_clock_E, version_E))
                raise AssertionError(
                    f"{spec}: gate: expected to stay open for clock {c} when min_clock goes from {m} to {m + more} and "
                    f"version from {v} to {v + newer}, got closed"
                )
    decision = model.commit(1)
    clock_E = np.array(CLOCKS)
    done_E = np.zeros_like(clock_E)  # commits on arrival: perhaps nobody has pushed
    if isinstance(decision, Gather):
        done_E = clock_E if decision.by == "version" else clock_E // decision.clocks
    beyond_E = np.full_like(clock_E, BEYOND)
    for version_E, first, when in ((done_E, True, "all rounds are committed"), (beyond_E, False, "all is far ahead")):
        open_E = _ask(spec, model, clock_E, clock_E if first else beyond_E, version_E, first)
        closed = clock_E[~open_E]
        who = "the first live worker" if first else "a worker"
        assert not len(closed), f"{spec}: gate: expected {who} at clock {closed[0]} to read when {when}, got closed"


# ---- commit and cadence -------------------------------------------------------------------------------------------


def _check_commit(spec: str, model: Consistency) -> None:
    for live in LIVE:
        decision, asked = model.commit(live), f"{spec}: commit({live}):"
        assert decision == model.commit(live), f"{asked} expected the same answer to the same question"
        assert isinstance(decision, OnArrival | Gather), f"{asked} expected OnArrival or Gather, got {decision!r}"
        if isinstance(decision, OnArrival):
            assert 0 < decision.rate < float("inf"), f"{asked} expected a finite rate > 0, got {decision.rate}"
            kind: object = OnArrival
        else:
            assert 1 <= decision.quorum <= live, f"{asked} expected a quorum of 1 to {live}, got {decision.quorum}"
            assert decision.by in ("clock", "version"), f"{asked} expected by 'clock' or 'version', got {decision.by!r}"
            known = decision.clocks == 1 or (decision.clocks > 1 and decision.by == "clock")
            assert known, f"{asked} expected clocks >= 1, and 1 where rounds are versions, got {decision.clocks}"
            kind = (Gather, decision.by, decision.clocks)
        if live == 1:
            first = kind
        assert kind == first, f"{asked} expected {first} for any number of workers, got {kind}"


def _check_cadence(spec: str, model: Consistency) -> None:
    cadence, asked = model.cadence, f"{spec}: cadence:"
    assert isinstance(cadence, Cadence), f"{asked} expected a Cadence, got {cadence!r}"
    assert cadence == model.cadence, f"{asked} expected the same answer again"
    every = (cadence.push_every, cadence.pull_every)
    assert min(every) >= 1, f"{asked} expected push_every and pull_every >= 1, got {every}"
    assert cadence.carries in ("gradient", "delta"), f"{asked} expected 'gradient' or 'delta', got {cadence.carries!r}"
    if cadence.local_lr is not None:
        assert 0 <= cadence.local_lr < float("inf"), f"{asked} expected a finite local_lr >= 0, got {cadence.local_lr}"
    if cadence.pull_every > 1 or cadence.carries == "delta":
        assert cadence.local_lr is not None, f"{asked} expected a local_lr: between pulls the replica answers"
    if cadence.carries == "delta":
        assert every[0] == every[1], f"{asked} expected push_every = pull_every for deltas, got {every}"
    if cadence.elastic is not None:
        assert cadence.carries == "delta", f"{asked} expected 'delta' with elastic, got {cadence.carries!r}"
        assert 0 < cadence.elastic <= 1, f"{asked} expected elastic > 0 and <= 1, got {cadence.elastic}"
        assert isinstance(model.commit(1), OnArrival), f"{asked} expected OnArrival with elastic, got rounds"
    asynchronous = isinstance(model.commit(1), OnArrival)
    if cadence.fragments != 1 or cadence.overlap or cadence.mix:
        assert cadence.carries == "delta" and not asynchronous and cadence.elastic is None, (
            f"{asked} expected deltas and rounds with fragments, overlap or mix, got {cadence}"
        )
    turns = cadence.fragments >= 1 and every[0] % cadence.fragments == 0
    assert turns, f"{asked} expected fragments to divide push_every = {every[0]}, got {cadence.fragments}"
    over = 0 <= cadence.overlap < cadence.stretch
    assert over, f"{asked} expected overlap >= 0 and below {cadence.stretch}, got {cadence.overlap}"
    assert 0 <= cadence.mix < 1, f"{asked} expected mix >= 0 and below 1, got {cadence.mix}"
    if cadence.lazy:
        assert cadence.pull_every == 1, f"{asked} expected pull_every = 1 with lazy pulls, got {cadence.pull_every}"
