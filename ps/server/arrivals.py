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
        self.queue: list[deque[tuple[int, int, int, float]]] = []  # per slice: (worker, seq, base, weight)
        self.busy: list[bool] = []
        self.touched: set[int] = set()

    def add_slices(self, count: int) -> None:
        self.admitted_WS = grown(self.admitted_WS, count, 1)
        self.queue.extend(deque() for _ in range(count))
        self.busy.extend([False] * count)

    def start_of_new(self, clock_W: Int64) -> tuple[int, Int64]:
        """The version that new slices start with, and each worker's clock on them: nobody has anything open there."""
        return 0, clock_W

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

    def take(self, worker: int, index: int, seq: int, base: int, weight: float, clock: int) -> Code | None:
        """Admits one push; None: its verdict comes with its commit."""
        self.admitted_WS[worker, index] = seq
        self.queue[index].append((worker, seq, base, weight))
        self.touched.add(index)
        return None

    def finish(self, worker: int, slices: Int64, clock: int, base_E: Int64) -> tuple[list[Record], bool]:
        """The worker's clock is closed on these slices; it never comes too late."""
        return [Finished(worker, slices, clock)], False

    def due(self) -> list[Commit]:
        """Commits that can start now."""
        commits: list[Commit] = []
        if self.touched:
            decision = self.model.commit(max(int(self.ledger.live_W.sum()), 1))
            assert isinstance(decision, OnArrival)
            min_clock_S = self.ledger.min_clock_S()
            free = [index for index in sorted(self.touched) if self.queue[index] and not self.busy[index]]
            commits = [self._start(index, decision.rate * self.lr(int(min_clock_S[index]))) for index in free]
            self.touched.clear()
        return commits

    def applied(self, commit: Commit) -> list[Refused]:
        """The commit is in the ledger: the slice is free for the next. Nothing is ever refused."""
        self.busy[commit.slice] = False
        self.touched.add(commit.slice)
        return []

    def discard(self, worker: int) -> Int64:
        """Forgets what the worker has queued and not in flight; returns per slice the last number still taken."""
        kept_S: Int64 = self.admitted_WS[worker]
        for index, queue in enumerate(self.queue):
            mine = sum(1 for push in queue if push[0] == worker)
            if mine:
                kept_S[index] -= mine
                self.queue[index] = deque(push for push in queue if push[0] != worker)
        return kept_S.copy()

    def joining_clock_S(self) -> Int64:
        """The clock that a joiner has on each slice: the least of all live, so that no minimum goes back."""
        least_S: Int64 = self.ledger.min_clock_S()
        return least_S

    def join(self, worker: int) -> None:
        """The ledger has its clocks."""

    def _start(self, index: int, lr: float) -> Commit:
        worker, seq, base, weight = self.queue[index].popleft()
        self.busy[index] = True
        version = int(self.ledger.version_S[index])
        number = int(self.ledger.number_S[index]) + 1
        pushes = (Contribution(worker, seq, weight),)
        return Commit(index, version + 1, lr, number, version - base, base, pushes)
