"""Who takes part: joins, leaves, losses, and who is not heard any more."""

from __future__ import annotations

from typing import Any

import numpy as np

from ps.errors import PeerError
from ps.messages import Join, Leave, LeaveDone, Lost, Rejected, Welcome
from ps.server.actions import DropUnfinished
from ps.server.desk import Desk
from ps.server.ledger import Joined, Left
from ps.server.members import Member
from ps.server.rounds import Rounds
from ps.types import JOIN_AHEAD_MAX, Clock, Int64


class Membership:
    """The workers of one shard."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def is_welcome(self, message: Any) -> bool:
        """Fences old incarnations and strangers; notes a sign of life."""
        if isinstance(message, Lost):
            return True
        worker, incarnation = int(message.worker), int(message.incarnation)
        if worker < 0 or (worker >= len(self.desk.members) and not isinstance(message, Join)):
            raise PeerError(f"worker {worker}: expected a rank below {len(self.desk.members)}; join first")
        if isinstance(message, Join):
            if worker >= len(self.desk.members) + JOIN_AHEAD_MAX:
                raise PeerError(f"worker {worker}: expected a rank below {len(self.desk.members) + JOIN_AHEAD_MAX}")
            self.make_room(worker)
        known = int(self.desk.ledger.incarnation_W[worker])
        member = self.desk.members[worker]
        if incarnation < known or (incarnation == known and member.fenced):
            why = f"worker {worker}: expected incarnation >= {known + member.fenced}, got {incarnation}"
            self.desk.send(worker, Rejected(incarnation, f"{why}; it was declared lost or restarted", fenced=True))
            return False
        if incarnation > known and not isinstance(message, Join):
            return False  # overtook its own Join: comes again
        member.heard = self.desk.now
        return True

    def join(self, join: Join) -> None:
        """A worker, or its new incarnation, takes part from now on."""
        worker, member = join.worker, self.desk.members[join.worker]
        if join.incarnation > self.desk.ledger.incarnation_W[worker]:
            self._discard(worker)
            member.joined = not self.desk.ledger.live_W[worker]
            member.fenced = False
            member.oldest = 0
            if member.joined:
                clock_S = np.maximum(self.desk.engine.joining_clock_S(), self.desk.ledger.clock_WS[worker])
                self.desk.record(Joined(worker, join.incarnation, clock_S))
                self.desk.engine.join(worker)
                live = [m.clock for w, m in enumerate(self.desk.members) if self.desk.ledger.live_W[w] and w != worker]
                least = min(live, default=member.clock)
                own_S = self.desk.engine.standing_S(worker)  # its first tick has to close what is behind on any slice
                by_clock = len(own_S) and not self._by_version
                member.clock = int(own_S.min()) if by_clock else int(clock_S.max(initial=least))
            else:
                self.desk.record(Joined(worker, join.incarnation, self.desk.ledger.clock_WS[worker].copy()))
                if not self._by_version:
                    member.clock = int(self.desk.engine.standing_S(worker).min(initial=member.clock))
        clock_S = self._clock_S(worker)
        ids, seq_S = self.desk.ledger.ids_S, self.desk.engine.admitted_WS[worker].copy()
        ahead = np.array(self.desk.engine.ahead(worker), np.int64).reshape(-1, 2)
        stands = (ids, seq_S, clock_S, ids[ahead[:, 0]], ahead[:, 1])
        self.desk.send(worker, Welcome(join.incarnation, member.joined, Clock(member.clock), *stands))

    @property
    def _by_version(self) -> bool:
        return isinstance(self.desk.engine, Rounds) and not self.desk.engine.by_clock

    def _clock_S(self, worker: int) -> Int64:
        """Clocks that the worker has finished, per slice; where rounds are versions, its ticks."""
        if self._by_version:
            return np.full(len(self.desk.ledger.ids_S), self.desk.members[worker].clock)
        return self.desk.engine.clock_S(worker)

    def leave(self, leave: Leave) -> None:
        """It has finished its work."""
        worker = leave.worker
        if self.desk.ledger.live_W[worker]:
            self._discard(worker)
            self.desk.record(Left(worker, leave.incarnation, done=True))
            self.desk.nudge()
        self.desk.send(worker, LeaveDone(leave.incarnation))

    def lost(self, lost: Lost) -> None:
        """The controller says that a worker is gone."""
        worker = int(lost.worker)
        if lost.wait:
            return
        self.make_room(worker)  # its Join may come after the news of its end: then it is refused
        known, live = int(self.desk.ledger.incarnation_W[worker]), bool(self.desk.ledger.live_W[worker])
        if lost.incarnation < known:
            return
        if live:
            self._discard(worker)
        if live or lost.incarnation > known:
            self.desk.record(Left(worker, lost.incarnation, done=False))
        self.desk.members[worker].fenced = True
        self.desk.nudge()

    def _discard(self, worker: int) -> None:
        """Drops what the worker left unfinished: queued pushes, open rounds, open ticks, parked pulls."""
        self.desk.actions.append(DropUnfinished(worker, self.desk.engine.discard(worker)))
        member = self.desk.members[worker]
        member.clock = min([member.clock, *(tick.clock for tick in member.ticks)])  # what was not closed, it does again
        member.ticks.clear()
        member.pulls.clear()

    def make_room(self, worker: int) -> None:
        """Rows up to this rank."""
        self.desk.ledger.make_room(worker)
        self.desk.engine.make_room(worker)
        while len(self.desk.members) <= worker:
            self.desk.members.append(Member())
