"""What the parts of a shard share: its numbers, its engine, its workers, and the actions of the event at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from ps.consistency import Consistency, Gather, OnArrival
from ps.messages import Verdicts
from ps.optim.base import Optimizer
from ps.optim.schedules import Schedule
from ps.server.actions import Action, Apply, Replicate, Send
from ps.server.arrivals import Arrivals
from ps.server.ledger import Ledger, Record
from ps.server.members import Member
from ps.server.rounds import Rounds
from ps.types import worker_peer

Settled = dict[int, list[tuple[int, int, int, int]]]  # worker -> (slice, push number, code, version)


class Desk:
    """Whatever changes the ledger or leaves the shard goes over it, in order."""

    def __init__(self, shard: int, workers: int, model: Consistency, optimizer: Optimizer, schedule: Schedule) -> None:
        self.shard, self.model, self.optimizer, self.schedule = shard, model, optimizer, schedule
        self.ledger = Ledger(workers)
        engine = Rounds if isinstance(model.commit(workers), Gather) else Arrivals
        self.engine: Rounds | Arrivals = engine(self.ledger, model, self.lr)
        self.members = [Member() for _ in range(workers)]
        self.actions: list[Action] = []
        self.now = 0.0
        self.cause = -1  # the worker whose message led here: who opens a gate was waited for

    def lr(self, clock: int) -> float:
        """The learning rate in force at a clock."""
        return self.ledger.lr(clock, self.optimizer.lr * self.schedule.factor(clock))

    def rate(self) -> float:
        """What models that apply on arrival multiply it with."""
        if isinstance(self.engine, Rounds):
            return 1.0
        decision = self.model.commit(self.ledger.sharing)
        assert isinstance(decision, OnArrival)
        return decision.rate

    def record(self, *records: Record) -> None:
        """Writes to the log: the only way that numbers change."""
        for record in records:
            self.ledger.apply(record)
            self.actions.append(Replicate(record))

    def send(self, worker: int, body: Any) -> None:
        self.actions.append(Send(worker_peer(worker), body))

    def send_verdicts(self, settled: Settled) -> None:
        """One message for each worker: a commit settles pushes of all, so the arrays are made once, and cut."""
        by_worker = sorted((worker, entries) for worker, entries in settled.items() if entries)
        if not by_worker:
            return
        index_E, *columns = np.array([entry for _, entries in by_worker for entry in entries]).T
        columns = [self.ledger.ids_S[index_E], *columns]
        first = 0
        for worker, entries in by_worker:
            last = first + len(entries)
            incarnation = int(self.ledger.incarnation_W[worker])
            self.send(worker, Verdicts(incarnation, *[column[first:last] for column in columns]))
            first = last

    def apply(self) -> None:
        """Starts the commits that can start now."""
        if commits := self.engine.due():
            self.actions.append(Apply(commits))

    def nudge(self) -> None:
        """Membership or initial values changed: rounds may be complete now."""
        if isinstance(self.engine, Rounds):
            self.engine.changed = True

    def take_actions(self) -> list[Action]:
        actions, self.actions = self.actions, []
        return actions
