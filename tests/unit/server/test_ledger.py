"""The replicated numbers: what each record changes, and that nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from ps.messages import Code
from ps.server.ledger import (
    VERDICTS_KEPT,
    Added,
    Commit,
    Contribution,
    Finished,
    Initialised,
    Joined,
    Ledger,
    Left,
    LrChanged,
    Record,
    Refused,
    Sent,
)
from ps.types import Int64


def ids(*numbers: int) -> Int64:
    return np.array(numbers, np.int64)


def ledger(*records: Record, workers: int = 2, slices: int = 2) -> Ledger:
    """A ledger with initialised slices, after these records."""
    made = Ledger(workers)
    made.apply(Added(ids(*range(slices)), np.zeros(slices, np.int64), tuple(np.zeros((workers, slices), np.int64))))
    made.apply(Initialised(ids(*range(slices))))
    for record in records:
        made.apply(record)
    return made


def commit(slice_id: int, version: int, *pushes: tuple[int, int], **more: object) -> Commit:
    """A commit of these (worker, number)."""
    contributions = tuple(Contribution(worker, seq, 1.0, 0) for worker, seq in pushes)
    return Commit(slice_id, version, 0.1, version, 0, version - 1, contributions, **more)  # type: ignore[arg-type]


def test_a_commit_moves_the_version_and_settles_its_pushes() -> None:
    after = ledger(commit(1, 1, (0, 1), (1, 1), (1, 2)))
    assert after.version_S.tolist() == [0, 1] and after.number_S.tolist() == [0, 1]
    assert after.last_WS.tolist() == [[0, 1], [0, 2]]
    assert after.verdict(1, 1, 2) == (Code.APPLIED, 1)


def test_a_commit_refuses_what_came_too_late_for_it() -> None:
    after = ledger(commit(0, 1, (0, 1), late=((1, 1),)))
    assert after.verdict(0, 0, 1) == (Code.APPLIED, 1)
    assert after.verdict(1, 0, 1) == (Code.LATE, 1)


def test_a_gathering_commit_moves_the_clocks_of_those_who_finished() -> None:
    after = ledger(commit(0, 1, (0, 1), finished=(0,), clock=1), commit(0, 2, finished=(0, 1), clock=2))
    assert after.clock_WS.tolist() == [[2, 0], [2, 0]]


def test_a_gathering_commit_settles_every_push_of_every_worker() -> None:
    """Also where a worker's numbers go round the verdicts that are kept, or are below one that was refused since."""
    pushes = [(0, 63), (0, 64), (0, 65), (2, 1), (2, 2)]
    state = ledger(Refused(2, 1, 3, 6), commit(1, 7, *pushes, finished=(0, 1, 2), clock=4), workers=3)
    assert [state.verdict(worker, 1, seq) for worker, seq in pushes] == [(Code.APPLIED, 7)] * 5
    assert state.last_WS.tolist() == [[0, 65], [0, 0], [0, 3]]
    assert state.verdict(2, 1, 3) == (Code.LATE, 6) and not state.ahead


def test_a_refusal_settles_a_push() -> None:
    after = ledger(Refused(1, 0, 1, 0), Refused(1, 0, 2, 5))
    assert after.last_WS.tolist() == [[0, 0], [2, 0]]
    assert (after.verdict(1, 0, 1), after.verdict(1, 0, 2)) == ((Code.LATE, 0), (Code.LATE, 5))


def test_the_last_verdicts_are_kept() -> None:
    after = ledger(*(commit(0, version, (0, version)) for version in range(1, 101)))
    for seq in range(101 - VERDICTS_KEPT, 101):
        assert after.verdict(0, 0, seq) == (Code.APPLIED, seq)


def test_the_minimum_clock_is_that_of_the_live_workers() -> None:
    made = ledger(Finished(0, ids(0, 1), 3), Finished(1, ids(0), 1))
    assert made.min_clock_S().tolist() == [1, 0]
    made.apply(Left(1, 1, False))
    assert made.min_clock_S().tolist() == [3, 3]
    made.apply(Left(0, 1, True))
    assert made.min_clock_S().tolist() == [3, 3], "with nobody live, the largest"
    made.apply(Joined(1, 2, ids(3, 2)))
    assert made.min_clock_S().tolist() == [3, 2]
    assert made.incarnation_W.tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_the_minimum_clock_is_kept_up_through_all_that_changes_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    made = ledger()
    for number in range(1, 200):
        worker, index, clock = (int(random.integers(high)) for high in (2, 2, number))
        joined = Joined(worker, number, ids(clock, clock))
        finished = Commit(index, number, 0.1, number, 0, 0, (), finished=(worker,), clock=clock)
        others: list[Record] = [Left(worker, number, False), joined, finished]
        made.apply(Finished(worker, ids(index), clock) if random.random() < 0.7 else others[random.integers(3)])
        rows_WS = made.clock_WS[made.live_W] if made.live_W.any() else made.clock_WS.max(axis=0, keepdims=True)
        assert made.min_clock_S().tolist() == rows_WS.min(axis=0).tolist()
        assert (made.live, made.first_live) == (int(made.live_W.sum()), int(np.argmax(made.live_W)))


def test_a_finished_clock_never_goes_back() -> None:
    assert ledger(Finished(0, ids(0), 3), Finished(0, ids(0, 1), 2)).clock_WS[0].tolist() == [3, 2]


def test_a_worker_of_a_new_rank_makes_room() -> None:
    after = ledger(commit(0, 1, (0, 1)), Joined(4, 1, ids(0, 0)))
    assert after.live_W.tolist() == [True, True, False, False, True]
    assert after.last_WS.tolist() == [[1, 0], *([0, 0] for _ in range(4))]
    after.apply(commit(0, 2, (4, 1)))
    assert after.verdict(4, 0, 1) == (Code.APPLIED, 2)


def test_new_slices_start_where_the_record_says() -> None:
    made = ledger(commit(0, 1, (0, 1)))
    made.apply(Added(ids(7, 8), ids(3, 2), tuple(np.array([[3, 2], [4, 5]]))))
    assert made.ids_S.tolist() == [0, 1, 7, 8] and made.version_S.tolist() == [1, 0, 3, 2]
    assert made.clock_WS.tolist() == [[0, 0, 3, 2], [0, 0, 4, 5]]
    assert made.ready_S.tolist() == [True, True, False, False]
    assert made.last_WS.shape == (2, 4) and made.verdict_WSK.shape == (2, 4, VERDICTS_KEPT)


@pytest.mark.parametrize(
    ("clock", "rate"), [(0, 0.5), (2, 0.5), (3, 0.1), (4, 0.1), (5, 0.03), (9, 0.03), (10, 0.2), (10_000, 0.2)]
)
def test_the_rate_is_the_last_one_set_up_to_a_clock_else_the_scheduled_one(clock: int, rate: float) -> None:
    changes = [LrChanged(0.2, 10), LrChanged(0.1, 3), LrChanged(0.01, 5), LrChanged(0.03, 5)]
    assert ledger(*changes).lr(clock, scheduled=0.5) == rate


def test_what_was_sent_is_about_values_only() -> None:
    made = ledger(commit(0, 1, (0, 1)))
    before = made.state()
    made.apply(Sent(0, ids(0, 1)))
    assert made.state() == before


def test_equal_records_give_equal_bytes_and_any_difference_shows() -> None:
    records: list[Record] = [
        commit(0, 1, (0, 1)),
        Finished(1, ids(1), 1),
        Left(0, 1, True),
        LrChanged(0.2, 3),
        Refused(1, 1, 1, 0),
    ]
    whole = ledger(*records).state()
    assert ledger(*records).state() == whole
    for left_out in range(len(records)):
        assert ledger(*records[:left_out], *records[left_out + 1 :]).state() != whole
