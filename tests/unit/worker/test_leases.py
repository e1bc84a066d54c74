"""A worker's side of leases: its questions, answers that are lost, late or repeated, and when a part is done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ps.consistency import consistency
from ps.messages import Lease, Leased, Withheld
from ps.types import WorkerId
from ps.worker.leases import Leases
from ps.worker.reports import REPORT_S


class Worker:
    """A worker of which nothing arrives by itself: a wait asks once more, then takes the next prepared answer."""

    def __init__(self, model: str = "async") -> None:
        self.rank, self.incarnation, self.now = 2, 1, 0.0
        self.sent: list[Lease] = []
        self.closed = -1  # the last clock that the servers have
        self.session: Any = SimpleNamespace(model=consistency(model), clock=0, has_closed=lambda c: c <= self.closed)
        self.session.by_version = model.startswith("quorum")
        self.port = SimpleNamespace(now=lambda: self.now)
        self.missing = SimpleNamespace(verdicts=lambda: "verdicts")
        self.stopped = None
        self.answers: list[Any] = []
        self.idle = 0
        self.leases = Leases(self, self.idle_clock, "data", 10, 2, 4)  # type: ignore[arg-type]

    def idle_clock(self, timeout_s: float) -> None:
        self.idle += 1
        self.session.clock += 1

    def post(self, to: str, body: Lease) -> None:
        assert to == "controller"
        self.sent.append(body)

    def wait(self, done: Any, timeout_s: float, missing: Any, ask: Any = None) -> None:
        while not done():
            assert self.answers, missing()
            if ask is not None:
                ask()
            answer = self.answers.pop(0)
            if isinstance(answer, int):
                self.closed = answer
            else:
                self.leases.hear(answer)

    def said(self) -> list[tuple[int, int, list[tuple[int, int]]]]:
        """(question, size, what is done) of each message since the last look."""
        sent, self.sent = self.sent, []
        return [(one.id, one.size, list(zip(one.start_P, one.stop_P, strict=True))) for one in sent]


def leased(number: int, start: int, stop: int, floor: int = 0, until: int = 0) -> Leased:
    return Leased("data", number, start, stop, floor, 1.0, 1.0, until)


def withheld(number: int, clock: int = 5, asked: int = 0) -> Withheld:
    return Withheld("data", number, asked, WorkerId(1), clock, 0.5)


def test_a_question_is_asked_again_until_it_is_answered_and_each_answer_counts_once() -> None:
    worker = Worker()
    worker.answers = [leased(0, 90, 94), leased(1, 0, 4), leased(1, 0, 4), leased(2, 4, 8)]
    assert worker.leases.take(1.0) == (0, 4)
    assert worker.leases.take(1.0) == (4, 8)
    assert worker.said() == [(1, 4, [])] * 3 + [(2, 4, [])] * 3


def test_asking_ahead_is_the_same_question() -> None:
    worker = Worker()
    worker.leases.ask()
    worker.leases.ask()
    worker.leases.hear(leased(1, 0, 4))
    worker.leases.ask()
    assert worker.leases.take(1.0) == (0, 4) and worker.said() == [(1, 4, [])]


@pytest.mark.parametrize(
    ("model", "needs"),
    [("async", 5), ("downpour:push_every=4", 7), ("local:every=3", 5), ("local:every=4,fragments=4", 8)],
)
def test_a_part_is_done_when_the_servers_have_the_clock_in_which_it_travels(model: str, needs: int) -> None:
    worker = Worker(model)
    worker.leases.computed((0, 4), 5)
    worker.closed = needs - 1
    worker.leases.report()
    assert worker.said() == [] and worker.leases.done == []
    worker.closed = needs
    worker.leases.report()
    assert worker.said() == [(0, 0, [(0, 4)])] and worker.leases.done == [(0, 4)]


def test_what_is_done_is_told_until_an_answer_shows_that_it_was_heard() -> None:
    worker = Worker()
    worker.closed = 9
    worker.now = 1.0
    worker.leases.computed((0, 2), 0)
    worker.leases.ask()
    worker.leases.computed((2, 4), 1)  # after the question
    worker.leases.hear(leased(1, 4, 8))
    assert worker.leases.take(1.0) == (4, 8)
    worker.leases.ask()
    assert worker.said() == [(0, 0, [(0, 2)]), (1, 4, [(0, 2)]), (2, 4, [(2, 4)])]


def test_between_questions_news_wait_for_their_time() -> None:
    worker = Worker()
    worker.closed, worker.now = 9, 1.0
    for start in (0, 1, 2):
        worker.leases.computed((start, start + 1), 0)
    assert worker.said() == [(0, 0, [(0, 1)])]
    worker.now += REPORT_S
    worker.leases.computed((3, 4), 0)
    assert worker.said() == [(0, 0, [(0, 4)])]


def test_what_all_have_done_need_not_be_remembered() -> None:
    worker = Worker()
    worker.leases.restore(3, [(5, 7), (9, 10)])
    assert worker.said() == [(0, 0, [(0, 3), (5, 7), (9, 10)])]
    worker.answers = [leased(1, 10, 14, floor=6)]
    assert worker.leases.take(1.0) == (10, 14)
    assert (worker.leases.floor, worker.leases.done) == (6, [(6, 7), (9, 10)])


def test_nothing_is_taken_while_others_hold_what_is_left_and_nothing_when_all_is_over() -> None:
    worker = Worker()
    worker.answers = [withheld(1)]
    assert worker.leases.take(1.0) is None and not worker.leases.is_over
    worker.answers = [leased(1, 20, 20, floor=20)]
    worker.leases.wait(1.0)
    assert worker.leases.take(1.0) is None and worker.leases.is_over


def test_where_others_wait_for_clocks_one_is_closed_for_each_answer() -> None:
    worker = Worker("bsp")
    worker.answers = [withheld(1)]
    assert worker.leases.take(1.0) is None and worker.leases.take(1.0) is None
    worker.leases.wait(1.0)
    assert worker.idle == 1
    worker.answers = [withheld(1), withheld(1, asked=1)]  # the first is a late copy
    assert worker.leases.take(1.0) is None and not worker.answers


def test_what_was_said_of_an_earlier_clock_lets_nobody_close_this_one() -> None:
    worker = Worker("bsp")
    worker.answers = [withheld(1)]
    assert worker.leases.take(1.0) is None
    worker.session.clock = 1  # it had a batch in hand
    worker.answers = [withheld(1), withheld(1, asked=1)]
    assert worker.leases.take(1.0) is None
    assert not worker.answers and [one.clock for one in worker.sent] == [0, 0, 1, 1, 1]


def test_all_go_to_the_clock_at_which_everybody_ends() -> None:
    worker = Worker("bsp")
    worker.answers = [leased(1, 20, 20, 20, until=3)]
    assert worker.leases.take(1.0) is None and worker.leases.is_over
    worker.leases.finish(1.0)
    assert worker.session.clock == worker.idle == 3


def test_where_nobody_waits_for_clocks_a_wait_lasts_until_there_is_news() -> None:
    worker = Worker()
    worker.answers = [withheld(1)]
    worker.leases.take(1.0)
    worker.leases.computed((0, 4), 3)
    worker.session.clock = 4
    worker.answers = [
        3,
        withheld(1, asked=4),
        withheld(1, clock=6, asked=4),
        leased(1, 4, 8),
    ]  # 3: the servers have that clock
    worker.leases.wait(1.0)
    assert worker.idle == 0 and worker.said()[-1] == (1, 4, [(0, 4)])
    assert len(worker.answers) == 1, "who holds the rest has moved: its deadline begins anew"


@pytest.mark.parametrize("model", ["bsp", "ssp:staleness=3", "local:every=3"])
def test_where_others_wait_for_its_clock_a_worker_closes_clocks(model: str) -> None:
    worker = Worker(model)
    worker.answers = [withheld(1)]
    worker.leases.take(1.0)
    worker.leases.wait(1.0)
    assert worker.idle == 1


def test_under_quorum_a_worker_says_that_it_waits() -> None:
    """Clocks without a push would take the places of those who push."""
    worker = Worker("quorum:n=2")
    worker.answers = [withheld(1)]
    worker.leases.take(1.0)
    assert [one.waits for one in worker.sent] == [False, False]
    worker.sent.clear()
    worker.answers = [withheld(1), leased(1, 20, 20)]
    worker.leases.wait(1.0)
    worker.leases.wait(1.0)
    assert worker.idle == 0 and all(one.waits for one in worker.sent)


def test_after_a_wait_a_clock_brings_new_values() -> None:
    worker = Worker()
    worker.answers = [withheld(1)]
    worker.leases.take(1.0)
    worker.answers = [leased(1, 4, 8)]
    worker.leases.wait(1.0)
    assert worker.idle == 1 and worker.leases.take(1.0) == (4, 8)


def test_a_round_of_its_own_is_ended_before_a_wait() -> None:
    """Its pushes are still here: the rest would wait for this very worker."""
    worker = Worker("downpour:push_every=3")
    worker.answers = [withheld(1)]
    worker.leases.take(1.0)
    worker.leases.computed((0, 4), 3)
    worker.session.clock = 4
    worker.leases.wait(1.0)
    worker.leases.wait(1.0)
    assert (worker.idle, worker.session.clock) == (2, 6)
    worker.answers = [5, leased(1, 20, 20)]
    worker.leases.wait(1.0)
    assert worker.idle == 2 and worker.leases.done == [(0, 4)]
