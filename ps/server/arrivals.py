"""Commits of models that apply on arrival: a queue per slice, one apply in flight each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from ps.consistency import Consistency, OnArrival
from ps.messages import Code
from ps.server.ledger import Commit, Contribution, Finished, Ledger, Record, Refused, grown
from ps.types import Int64


class Arrivals:
    """Every push is one commit, in the order of arrival."""

    def __init__(self, ledger: Ledger, model: Consistency, lr: Callable[[int], float]) -> None:
        self.ledger, self.model, self.lr = ledger, model, lr
        self.admitted_WS: Int64 = np.zeros_like(ledger.last_WS)  # last push number taken
        self.queue: list[deque[tuple[Contribution, int]]] = []  # per slice: pushes and the versions they are based on
        self.in_flight: list[Contribution | None] = []
        self.touched: set[int] = set()

    def add_slices(self, count: int) -> None:
        self.admitted_WS = grown(self.admitted_WS, count, 1)
        self.queue.extend(deque() for _ in range(count))
        self.in_flight.extend([None] * count)

    def start_of_new(self, slice_E: Int64, clock_W: Int64) -> tuple[Int64, Int64]:
        """The versions that new slices start with, and each worker's clock on each: nobody has anything open there."""
        return np.zeros_like(slice_E), np.repeat(clock_W[:, None], len(slice_E), 1)

    def make_room(self, worker: int) -> None:
        """A row for every rank that the ledger knows."""
        self.admitted_WS = grown(self.admitted_WS, len(self.ledger.last_WS) - len(self.admitted_WS), 0)

    def prefix_S(self, worker: int) -> Int64:
        """Per slice the last push number up to which all have a verdict."""
        row: Int64 = self.ledger.last_WS[worker]
        return row

    def gate_clock_E(self, worker: int, slices: Int64, clock: int) -> Int64:
        """The worker's clock on these slices, as the gate asks for it."""
        return np.full(len(slices), clock)

    def clock_S(self, worker: int) -> Int64:
        """Clocks that the worker has finished, per slice."""
        row: Int64 = self.ledger.clock_WS[worker]
        return row

    def standing_S(self, worker: int) -> Int64:
        """Per slice the last clock at which the worker can stand, by what it has finished."""
        return self.clock_S(worker)

    def take(self, worker: int, index: int, seq: int, base: int, weight: float, clock: int) -> Code | None:
        """Admits one push; None: its verdict comes with its commit."""
        self.admitted_WS[worker, index] = seq
        self.queue[index].append((Contribution(worker, seq, weight, clock), base))
        self.touched.add(index)
        return None

    def finish(self, worker: int, slices: Int64, clock: int, base_E: Int64) -> tuple[list[Record], bool]:
        """The worker's clock is closed on these slices; it never comes too late."""
        return [Finished(worker, slices, clock)], False

    def due(self) -> list[Commit]:
        """Commits that can start now."""
        commits: list[Commit] = []
        if self.touched:
            decision = self.model.commit(self.ledger.sharing)
            assert isinstance(decision, OnArrival)
            min_clock_S = self.ledger.min_clock_S()
            free = [index for index in sorted(self.touched) if self.queue[index] and self.in_flight[index] is None]
            commits = [self._start(index, decision.rate * self.lr(int(min_clock_S[index]))) for index in free]
            self.touched.clear()
        return commits

    def applied(self, commit: Commit) -> list[Refused]:
        """The commit is in the ledger: the slice is free for the next. Nothing is ever refused."""
        self.in_flight[commit.slice] = None
        self.touched.add(commit.slice)
        return []

    def discard(self, worker: int) -> Int64:
        """Forgets what the worker has queued and not in flight; returns per slice the last number still taken."""
        kept_S: Int64 = self.admitted_WS[worker]
        for index, queue in enumerate(self.queue):
            mine = sum(1 for push, _ in queue if push.worker == worker)
            if mine:
                kept_S[index] -= mine
                self.queue[index] = deque(item for item in queue if item[0].worker != worker)
        return kept_S.copy()

    def ahead(self, worker: int) -> list[tuple[int, int]]:
        """(slice, clock) of each push in an unfinished clock that is applied, or will be."""
        done = [(index, clock) for (w, index), clocks in self.ledger.ahead.items() if w == worker for clock in clocks]
        flying = ((index, push) for index, push in enumerate(self.in_flight) if push is not None)
        return done + [(index, push.clock) for index, push in flying if push.worker == worker]

    def joining_clock_S(self) -> Int64:
        """The clock that a joiner has on each slice: the least of all live, so that no minimum goes back."""
        least_S: Int64 = self.ledger.min_clock_S()
        return least_S

    def join(self, worker: int) -> None:
        """The ledger has its clocks."""

    def rest(self, worker: int, resting: bool) -> None:
        """Nobody waits for pushes here."""

    def _start(self, index: int, lr: float) -> Commit:
        push, base = self.queue[index].popleft()
        self.in_flight[index] = push
        version = int(self.ledger.version_S[index])
        number = int(self.ledger.number_S[index]) + 1
        return Commit(index, version + 1, lr, number, version - base, base, (push,))
