"""Pulls: parked until the gate is open, answered as far as it is."""

from __future__ import annotations

import numpy as np

from ps.messages import Pull, Read
from ps.server.actions import Answer, Waited
from ps.server.desk import Desk
from ps.server.gate import Gate
from ps.server.ledger import Sent
from ps.server.members import Parked
from ps.server.slices import Slices
from ps.types import Int64, PeerId, worker_peer
from ps.wire import PART_BYTES


class Pulls:
    """Answers what workers and readers ask one shard for."""

    def __init__(self, desk: Desk, slices: Slices, gate: Gate) -> None:
        self.desk, self.slices, self.gate = desk, slices, gate
        self.parked: set[int] = set()  # workers, of whom some may have left since

    def park(self, pull: Pull) -> None:
        """Takes the pull down, to be answered as far as it is open; asked again, it says for whom the rest waits."""
        if not self.desk.ledger.live_W[pull.worker]:
            return  # a copy that came after its Leave
        member, index_E = self.desk.members[pull.worker], self.slices.local(pull.slice_E)
        member.oldest = max(member.oldest, pull.oldest)
        for stale in [i for i in member.pulls if i < member.oldest]:
            del member.pulls[stale]
        if pull.id < member.oldest:
            return  # a late copy of a pull that was answered
        parked = member.pulls.get(pull.id)
        since = self.desk.now if parked is None else parked.since
        mark_E = pull.mark_K if len(pull.mark_K) else np.zeros(len(index_E), np.int64)
        member.pulls[pull.id] = Parked(pull, index_E, pull.seq_E, mark_E, since)
        self.parked.add(int(pull.worker))
        if parked is not None:
            self.answer_open(pull.worker)
            if pull.id in member.pulls:
                self.desk.send(pull.worker, self.gate.why_waiting(pull, index_E, self.desk.now))

    def answer_open(self, worker: int) -> None:
        """Answers parked pulls as far as the gate is open; a part only when it is worth a message."""
        member = self.desk.members[worker]
        pulls = member.pulls
        for parked in [parked for parked in pulls.values() if parked.pull.clock <= member.clock]:
            pull, readable_E = parked.pull, self.gate.readable_E(parked.pull, parked.index_E, parked.seq_E)
            index_E, mark_E = parked.index_E, parked.mark_E
            count = np.count_nonzero(readable_E)
            if count == len(index_E):
                del pulls[pull.id]
                if self.desk.now > parked.since:
                    self.desk.actions.append(Waited(worker, self.desk.cause, self.desk.now - parked.since))
            elif count and int(self.slices.nbytes_S[index_E[readable_E]].sum()) >= PART_BYTES:
                index_E, mark_E = index_E[readable_E], mark_E[readable_E]
                for name in ("index_E", "seq_E", "mark_E"):
                    setattr(parked, name, getattr(parked, name)[~readable_E])
            else:
                continue
            if (version_E := self.gate.version_E(index_E, pull.clock)) is not None:
                self._answer(worker_peer(worker), pull.id, pull.clock, index_E, version_E, mark_E)
            if self.desk.optimizer.needs_base:
                self.desk.record(Sent(worker, index_E))
        if not pulls:
            self.parked.discard(worker)

    def _answer(self, to: PeerId, id: int, clock: int, index_E: Int64, version_E: Int64, mark_E: Int64) -> None:
        min_clock_E = self.desk.ledger.min_clock_S()[index_E]
        lr = self.desk.lr(int(min_clock_E.min())) if len(index_E) else 0.0
        columns = (index_E, mark_E, version_E, min_clock_E)
        self.desk.actions.append(Answer(to, id, clock, *columns, lr, self.desk.rate()))

    def read(self, to: PeerId, read: Read) -> None:
        """Answers a reader with the current values; not while some are not initialised."""
        index_E = self.slices.local(read.slice_E)
        if self.desk.ledger.ready_S[index_E].all():
            self._answer(to, read.id, -1, index_E, self.desk.ledger.version_S[index_E], np.zeros_like(index_E))
