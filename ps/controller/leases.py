"""Who computes which examples: parts of a data set's epochs, lent to the workers that ask. Pure.

Positions run over all epochs: place p of epoch e is e * examples + p. A position is free, held by one rank, or done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ps.messages import RATE_MAX, Lease, Leased
from ps.spans import Spans, united, without
from ps.wire import COUNT_MAX

AHEAD_MAX = 1 << 20  # clocks; workers report theirs each 0.1 s


@dataclass(slots=True)
class DataSet:
    """One leased data set. What is neither free nor held is done."""

    name: str
    examples: int
    epochs: int
    free: Spans
    held: dict[int, Spans] = field(default_factory=dict)  # by rank
    open: dict[int, Lease] = field(default_factory=dict)  # questions without an answer, by rank
    answers: dict[int, Leased] = field(default_factory=dict)  # the last of each rank
    reach: dict[int, int] = field(default_factory=dict)  # the clock that a rank may have come to by now
    until: int = 0  # all is done: the clock at which every worker ends
    rates: dict[int, float] = field(default_factory=dict)  # positions per second, by rank, as far as they have said

    @property
    def is_over(self) -> bool:
        return not self.free and not any(self.held.values())

    @property
    def floor(self) -> int:
        """Everything below is done."""
        starts = [spans[0][0] for spans in (self.free, *self.held.values()) if spans]
        return min(starts, default=self.examples * self.epochs)

    def take_done(self, rank: int, done: Spans) -> None:
        """This rank has been through these positions. What another holds by now counts when that one is through."""
        self.held[rank] = without(self.held.get(rank, []), done)
        self.free = without(self.free, done)

    def let(self, rank: int, clock: int) -> None:
        """The rank has come to this clock, or may do so unasked."""
        self.reach[rank] = max(self.reach.get(rank, 0), clock)

    def answer(self, rank: int) -> Leased | None:
        """What its open question gets now: a repeat what it got before, none while others hold what is left."""
        asked, last = self.open[rank], self.answers.get(rank)
        if last is None or last.id < asked.id:
            if not (self.free or self.is_over):
                return None
            last = self.answers[rank] = self._lend(rank, asked)
        del self.open[rank]
        return last

    def _lend(self, rank: int, asked: Lease) -> Leased:
        """The first free positions, at most `size`, of one epoch; none when all are done."""
        start = stop = self.examples * self.epochs
        if self.free:
            start, end = self.free[0]
            stop = min(start + asked.size, end, (start // self.examples + 1) * self.examples)
            self.free = without(self.free, [(start, stop)])
            self.held[rank] = united([*self.held.get(rank, []), (start, stop)])
        else:
            self.until = self.until or max(self.reach.values())
        return Leased(self.name, asked.id, start, stop, self.floor, *self._speed(rank), self.until)

    def _speed(self, rank: int) -> tuple[float, float]:
        """Its rate over the mean of all, and over the largest."""
        if rank not in self.rates:
            return 1.0, 1.0
        rate, rates = self.rates[rank], self.rates.values()
        return rate * len(rates) / sum(rates), rate / max(rates)


class Leases:
    """All data sets of the job."""

    def __init__(self) -> None:
        self.sets: dict[str, DataSet] = {}

    def check(self, message: Lease, clock: int) -> str:
        """What is wrong with a question, in words; nothing when it fits what the others have said.

        clock: the worker's last reported one.
        """
        got = message.examples, message.epochs
        if not 0 < message.examples * message.epochs <= COUNT_MAX:
            return f"expected 1 to 2^62 examples over all epochs, got {got[0]} x {got[1]}"
        if not 0 <= message.rate <= RATE_MAX:
            return f"rate: expected 0 to {RATE_MAX:g} positions per second, got {message.rate!r}"
        if message.clock > clock + AHEAD_MAX:
            return f"clock: expected at most {clock + AHEAD_MAX}, as {clock} was reported last, got {message.clock}"
        known = self.sets.get(message.data)
        if known is not None and got != (known.examples, known.epochs):
            expected = f"{known.examples} examples, {known.epochs} epochs"
            return f"expected {expected} like the other workers, got {got[0]}, {got[1]}; give it another name"
        return ""

    def ask(self, message: Lease) -> None:
        """Takes in what is done, and the question where there is one; a repeat asks for the same again."""
        rank = int(message.worker)
        whole = [(0, message.examples * message.epochs)]
        data = self.sets.setdefault(message.data, DataSet(message.data, message.examples, message.epochs, whole))
        data.let(rank, message.clock)
        data.take_done(rank, united(zip(message.start_P.tolist(), message.stop_P.tolist(), strict=True)))
        newest = max((one.id for one in (data.answers.get(rank), data.open.get(rank)) if one is not None), default=0)
        if message.rate > 0:
            data.rates[rank] = message.rate
        if message.size and message.id >= newest:
            data.open[rank] = message

    def give_back(self, rank: int) -> None:
        """The rank is gone, or starts again: others get what it has not done."""
        for data in self.sets.values():
            data.free = united([*data.free, *data.held.pop(rank, [])])
            data.open.pop(rank, None)
            data.answers.pop(rank, None)
            data.rates.pop(rank, None)
            data.reach.pop(rank, None)

    def answers(self) -> list[tuple[int, Leased]]:
        """What open questions get now: (rank, answer)."""
        asked = [(data, rank) for data in self.sets.values() for rank in sorted(data.open)]
        return [(rank, answer) for data, rank in asked if (answer := data.answer(rank)) is not None]

    def holder(self, name: str) -> int:
        """Of the ranks that hold what is not done of this data set, the one with the first part of it."""
        held = self.sets[name].held
        return min((rank for rank, spans in held.items() if spans), key=lambda rank: held[rank])
