"""Leases: every position of every epoch is handed out, and done once, whatever dies, starts again or is lost."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.controller.actions import Send
from ps.controller.core import Controller
from ps.messages import Confirmed, Done, Enroll, Lease, Leased, Progress, Rejected, Rest, Withheld
from ps.spans import Span
from ps.types import Clock, WorkerId, server_peer, worker_peer


class Lending:
    """A controller whose workers have come, and what they say of one data set."""

    def __init__(self, workers: int = 2, examples: int = 10, epochs: int = 1, **options: Any) -> None:
        self.control = Controller(workers, 1, "{}", **options)
        self.examples, self.epochs = examples, epochs
        for rank in range(workers):
            self.enroll(rank)

    def enroll(self, rank: int) -> list[Send]:
        return self.control.handle(worker_peer(rank), Enroll(WorkerId(rank), False, 1), 0.0)

    def say(self, rank: int, body: Any) -> list[Send]:
        return self.control.handle(worker_peer(rank), body, 0.0)

    def ask(self, rank: int, number: int, size: int = 4, done: tuple[Span, ...] = (), **changed: Any) -> list[Any]:
        """A question; the answers to it and, as (rank, answer), to others that have waited."""
        given = {"incarnation": self.control.members[rank].incarnation, "data": "data", **changed}
        about = given.get("examples", self.examples), given.get("epochs", self.epochs)
        start_P, stop_P = np.array(done, np.int64).reshape(-1, 2).T
        waits = given.get("waits", False)
        who = WorkerId(rank), given["incarnation"], given["data"]
        lease = Lease(*who, *about, number, given.get("clock", 0), size, waits, given.get("rate", 0.0), start_P, stop_P)
        sends = self.say(rank, lease)
        return [send.body if send.to == worker_peer(rank) else (send.to, send.body) for send in sends]


def leased(
    number: int, start: int, stop: int, floor: int = 0, data: str = "data", pace: float = 1.0, share: float = 1.0,
    until: int = 0,
) -> Leased:  # fmt: skip
    return Leased(data, number, start, stop, floor, pace, share, until)


def test_ranges_are_disjoint_in_order_and_of_one_epoch() -> None:
    lending = Lending(epochs=2)
    got = [lending.ask(rank, number) for number in (1, 2, 3) for rank in (0, 1)]
    spans = [(0, 4), (4, 8), (8, 10), (10, 14), (14, 18), (18, 20)]
    assert got == [[leased(1 + at // 2, *span)] for at, span in enumerate(spans)]


def test_who_asks_more_often_gets_more() -> None:
    lending = Lending()
    lending.ask(1, 1)
    assert lending.ask(0, 1) == [leased(1, 4, 8)]
    assert lending.ask(0, 2, done=((4, 8),)) == [leased(2, 8, 10)]


def test_a_repeated_question_gets_the_same_answer() -> None:
    lending = Lending()
    assert lending.ask(0, 1) == lending.ask(0, 1) == [leased(1, 0, 4)]
    assert lending.ask(0, 2) == [leased(2, 4, 8)]
    assert lending.ask(0, 1) == [], "a late copy"


def test_a_late_copy_does_not_take_the_place_of_the_open_question() -> None:
    lending = Lending()
    lending.ask(0, 1, size=2), lending.ask(1, 1, size=10), lending.ask(0, 3), lending.ask(0, 2)
    assert lending.control.leases.sets["data"].open[0].id == 3


def test_pace_is_the_rate_over_the_mean_of_those_that_are_there() -> None:
    lending = Lending(workers=3, examples=100)
    assert lending.ask(0, 1) == [leased(1, 0, 4)], "nothing is known"
    assert lending.ask(1, 1, rate=30.0) == [leased(1, 4, 8)], "nobody else's"
    assert lending.ask(2, 1, rate=90.0) == [leased(1, 8, 12, pace=1.5)]
    assert lending.ask(0, 2, rate=60.0) == [leased(2, 12, 16, pace=1.0, share=60 / 90)]
    lending.control.worker_lost(2, "gone", 0.0)
    assert lending.ask(1, 2)[0].pace == 30 / 45


def test_a_clock_that_nobody_can_have_come_to_is_refused() -> None:
    lending = Lending()
    lending.say(0, Progress(WorkerId(0), 1, Clock(7)))
    (answer,) = lending.ask(0, 1, clock=1 << 61)
    assert isinstance(answer, Rejected) and "clock: expected at most 1048583, as 7 was reported last" in answer.reason
    assert lending.ask(0, 1, clock=9) == [leased(1, 0, 4)]


@pytest.mark.parametrize("rate", [-1.0, 1e16])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    (answer,) = Lending().ask(0, 1, rate=rate)
    assert (
        isinstance(answer, Rejected) and f"rate: expected 0 to 1e+15 positions per second, got {rate}" in answer.reason
    )


def test_news_without_a_question_get_no_answer() -> None:
    lending = Lending()
    lending.ask(0, 1)
    assert lending.ask(0, 1, size=0, done=((0, 2),)) == []
    assert lending.control.leases.sets["data"].held == {0: [(2, 4)]}


def test_who_comes_when_others_hold_the_rest_waits_and_hears_for_whom() -> None:
    lending = Lending()
    lending.ask(1, 1, size=10)
    lending.say(1, Progress(WorkerId(1), 1, Clock(7)))
    assert lending.ask(0, 1) == lending.ask(0, 1) == [Withheld("data", 1, 0, WorkerId(1), 7, 0.0)]


def test_over_is_said_to_all_when_the_last_is_done() -> None:
    lending = Lending()
    lending.ask(1, 1, size=10)
    lending.ask(0, 1, waits=True)
    assert lending.ask(1, 2, done=((0, 10),)) == [("worker:0", leased(1, 10, 10, 10)), leased(2, 10, 10, 10)]
    assert lending.ask(0, 2) == [leased(2, 10, 10, 10)]


def test_all_end_at_the_clock_that_the_furthest_may_have_come_to() -> None:
    lending = Lending(workers=3)
    lending.ask(1, 1, size=10, clock=4)
    lending.ask(0, 1, clock=4), lending.ask(2, 1, clock=5, waits=True)
    lending.ask(0, 1, clock=5)  # it was let close clock 4, and may close clock 5 now, before it hears the end
    over = [leased(1, 10, 10, 10, until=6), leased(2, 10, 10, 10, until=6)]
    assert lending.ask(1, 2, done=((0, 10),), clock=5) == [("worker:0", over[0]), over[1], ("worker:2", over[0])]
    assert lending.ask(0, 2, clock=9) == [over[1]], "it is said once"


@pytest.mark.parametrize("on_worker_loss", ["drop", "wait"])
def test_exactly_what_a_lost_worker_has_not_done_goes_to_who_waits(on_worker_loss: Any) -> None:
    lending = Lending(on_worker_loss=on_worker_loss)
    lending.ask(1, 1, size=6)
    lending.ask(0, 1, size=4)
    lending.ask(0, 2, size=9, done=((6, 10),))
    lending.ask(1, 0, size=0, done=((0, 2),))
    sends = lending.control.worker_lost(1, "it was killed", 0.0)
    assert Send(worker_peer(0), leased(2, 2, 6, 2)) in sends


def test_a_restarted_worker_starts_anew() -> None:
    lending = Lending(workers=1)
    lending.ask(0, 1), lending.ask(0, 2)
    lending.ask(0, 0, size=0, done=((0, 3), (5, 6)))
    lending.enroll(0)
    assert lending.ask(0, 1, size=9) == [leased(1, 3, 5, 3)]
    assert lending.ask(0, 2, size=9) == [leased(2, 6, 10, 3)]


def test_who_is_done_gives_back_what_it_holds() -> None:
    lending = Lending()
    lending.ask(1, 1, size=10)
    lending.ask(0, 1, size=10)
    sends = lending.say(1, Done(WorkerId(1), 1, ""))
    assert Send(worker_peer(0), leased(1, 0, 10)) in sends


def test_what_another_holds_by_now_is_done_when_that_one_says_so() -> None:
    """It was taken for lost, and was only slow."""
    lending = Lending(on_worker_loss="wait")
    lending.ask(1, 1, size=10)
    lending.control.worker_lost(1, "no progress", 0.0)
    lending.ask(0, 1, size=5)
    lending.ask(1, 2, size=1, done=((0, 10),))
    data = lending.control.leases.sets["data"]
    assert (data.held, data.free) == ({0: [(0, 5)], 1: []}, [])


def test_a_worker_that_was_dropped_gets_nothing() -> None:
    lending = Lending()
    lending.control.worker_lost(1, "no progress", 0.0)
    [rejected] = lending.ask(1, 1)
    assert isinstance(rejected, Rejected) and rejected.fenced
    assert rejected.reason == "worker 1: data set 'data': the others go on without it, it was lost at clock 0"


def test_data_sets_are_apart_and_each_has_one_length() -> None:
    lending = Lending()
    lending.ask(0, 1)
    assert lending.ask(0, 1, data="other", examples=3) == [leased(1, 0, 3, data="other")]
    [rejected] = lending.ask(1, 1, examples=11)
    why = "expected 10 examples, 1 epochs like the other workers, got 11, 1; give it another name"
    assert rejected == Rejected(1, f"worker 1: data set 'data': {why}", False)
    [rejected] = lending.ask(1, 1, data="huge", examples=2**62, epochs=2)
    assert "expected 1 to 2^62 examples over all epochs, got 4611686018427387904 x 2" in rejected.reason


def test_who_waits_for_others_is_not_waited_for_under_quorum() -> None:
    """And is lent something only once the shards count on it again."""
    lending = Lending(tells_rest=True)
    lending.ask(1, 1, size=10)
    assert bodies(lending.ask(0, 1)) == ["Withheld"], "it still computes what it has"
    assert bodies(lending.ask(0, 1, waits=True)) == ["Rest", "Withheld"]
    assert bodies(lending.ask(0, 1, waits=True)) == ["Withheld"]
    sends = lending.control.worker_lost(1, "it was killed", 0.0)
    assert [send.body for send in sends if isinstance(send.body, Rest)] == [Rest(2, WorkerId(0), False)]
    assert not any(isinstance(send.body, Leased) for send in sends)
    lending.control.handle(server_peer(0), Confirmed(0, 1), 0.0)
    assert lending.control.handle(server_peer(0), Confirmed(0, 2), 0.0) == [Send(worker_peer(0), leased(1, 0, 4))]


def bodies(answers: list[Any]) -> list[str]:
    """Kinds, of what was said to whomever."""
    return [type(one[1] if isinstance(one, tuple) else one).__name__ for one in answers]


class Faulty:
    """Workers on a controller whose messages get lost and repeated; they die and start again at any time."""

    def __init__(self, seed: int, workers: int, examples: int, epochs: int, on_worker_loss: Any) -> None:
        self.rng = Random(seed)
        self.lending = Lending(workers, examples, epochs, on_worker_loss=on_worker_loss)
        self.workers = workers
        self.handed: set[int] = set()
        self.done: dict[int, int] = {}  # position -> how often it went from not done to done
        self.fresh = {rank: (1, list[Span](), list[Span]()) for rank in range(workers)}  # number, in hand, through

    def undone(self) -> set[int]:
        data = self.lending.control.leases.sets.get("data")
        if data is None:
            return set(range(self.lending.examples * self.lending.epochs))
        spans = [*data.free, *(span for held in data.held.values() for span in held)]
        numbers = [number for start, stop in spans for number in range(start, stop)]
        assert len(numbers) == len(set(numbers)), "a position is lent twice"
        return set(numbers)

    def step(self, rank: int) -> bool:
        """One thing that a worker does; True: it has heard that all is over."""
        number, hand, through = self.fresh[rank]
        if hand:  # computes a part of its first range
            start, stop = hand[0]
            cut = self.rng.randint(start + 1, stop)
            hand[:1] = [(cut, stop)] if cut < stop else []
            through.append((start, cut))
            return False
        before = self.undone()
        done = tuple(through)
        answers = [a for _ in range(self.rng.randint(1, 2)) for a in self.lending.ask(rank, number, 3, done)]
        for position in before - self.undone():
            self.done[position] = self.done.get(position, 0) + 1
        mine = [a for a in answers if isinstance(a, Leased)]
        assert all(a == mine[0] for a in mine)
        if not mine or self.rng.random() < 0.3:  # its answer was lost, or there is none
            return False
        self.handed |= set(range(mine[0].start, mine[0].stop))
        self.fresh[rank] = number + 1, [(mine[0].start, mine[0].stop)] if mine[0].start < mine[0].stop else [], []
        return mine[0].start == mine[0].stop

    def die(self, rank: int) -> None:
        if self.rng.random() < 0.7:
            self.lending.control.worker_lost(rank, "it was killed", 0.0)
        self.lending.enroll(rank)
        self.fresh[rank] = 1, [], []


@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 4),
    examples=st.integers(1, 25),
    epochs=st.integers(1, 3),
    on_worker_loss=st.sampled_from(["drop", "wait"]),
)
def test_every_position_is_handed_out_and_done_once(
    seed: int, workers: int, examples: int, epochs: int, on_worker_loss: str
) -> None:
    run = Faulty(seed, workers, examples, epochs, on_worker_loss)
    over: set[int] = set()
    deaths = 0
    for _ in range(5000):
        rank = run.rng.randrange(workers)
        if run.rng.random() < 0.1 and deaths < 20:
            deaths += 1
            over.discard(rank)
            run.lending.control.stopped = None  # the last one was killed: here it starts again
            run.die(rank)
        elif rank not in over and run.step(rank):
            over.add(rank)
        if len(over) == workers:
            break
    everything = set(range(examples * epochs))
    assert len(over) == workers and run.handed == everything
    assert run.done == dict.fromkeys(everything, 1)
