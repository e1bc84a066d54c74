"""One server's decisions: orders commits, answers pulls, fences the dead. No I/O, no arrays of values.

Events in (messages, finished applies), actions out; the runtime performs them in order. Same events, same actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ps.consistency import Consistency
from ps.errors import PeerError
from ps.keyspace import Keyspace
from ps.messages import (
    Ask,
    Code,
    Committed,
    CommittedByAll,
    Confirmed,
    Gap,
    InitDone,
    Join,
    Leave,
    Lost,
    Place,
    Pull,
    Push,
    Rate,
    Read,
    Rejected,
    Rest,
    Tick,
    Ticked,
)
from ps.optim.base import Optimizer
from ps.optim.schedules import Schedule
from ps.server.actions import Action, Drop, Forget, Keep, Send, Store
from ps.server.arrivals import Arrivals
from ps.server.desk import Desk, Settled
from ps.server.gate import Gate
from ps.server.ledger import VERDICTS_KEPT, Commit, Initialised, Ledger, LrChanged, Refused
from ps.server.members import OpenTick
from ps.server.membership import Membership
from ps.server.pulls import Pulls
from ps.server.rounds import Rounds
from ps.server.slices import Slices
from ps.types import CONTROLLER, Clock, Int64, PeerId

WEIGHT_MIN, WEIGHT_MAX = 2.0**-150, (2 - 2.0**-24) * 2.0**127  # what rounds to 0 in float32, or to infinity


class Shard:
    """S: slices of this shard by local index; E: slices of one event; W: workers by rank."""

    def __init__(
        self,
        shard: int,
        workers: int,
        model: Consistency,
        optimizer: Optimizer,
        schedule: Schedule,
        keep_versions: bool = False,
    ) -> None:
        self.shard = shard
        self.desk = Desk(shard, workers, model, optimizer, schedule)
        self.ledger: Ledger = self.desk.ledger
        self.engine: Rounds | Arrivals = self.desk.engine
        self.members = self.desk.members
        self.gate = Gate(self.ledger, self.engine, model, self.members, keep_versions)
        self.slices = Slices(self.desk)
        self.membership = Membership(self.desk)
        self.pulls = Pulls(self.desk, self.slices, self.gate)
        self._woken: set[int] | None = set()

    @property
    def optimizer(self) -> Optimizer:
        """The run's, or the one that its script asked for."""
        return self.desk.optimizer

    @property
    def keyspace(self) -> Keyspace:
        """All parameters of the job, as far as this shard knows."""
        return self.slices.keyspace

    # ---- events -----------------------------------------------------------------------------------------------------

    def handle(self, message: Any, now: float, more: bool = False) -> list[Action]:
        """One message of a worker or of the controller. A PeerError becomes a Rejected to its sender.

        more: others came with it; what can be answered or started is left to `go_on` after the last of them.
        """
        self.desk.now = now
        worker = getattr(message, "worker", None) if hasattr(message, "incarnation") else None
        self.desk.cause = self.desk.cause if worker is None else int(worker)
        try:
            if worker is None or self.membership.is_welcome(message):
                self._dispatch(message)
        except PeerError as error:
            if worker is None:
                raise
            incarnation = int(getattr(message, "incarnation", 0))
            self.desk.send(worker, Rejected(incarnation, str(error), fenced=False))
        return self._end(more)

    def go_on(self, now: float) -> list[Action]:
        """What the messages that came together have made possible."""
        self.desk.now = now
        return self._end()

    def on_applied(self, commits: list[Commit], now: float) -> list[Action]:
        """The commits are in the values."""
        self.desk.now = now
        before = self._committed
        touched: set[int] = set()
        settled: Settled = {}
        for commit in commits:
            self.desk.record(commit)
            for push in commit.contributions:
                settled.setdefault(push.worker, []).append((commit.slice, push.seq, Code.APPLIED, commit.version))
            for worker, seq in commit.late:
                settled.setdefault(worker, []).append((commit.slice, seq, Code.LATE, commit.version))
            late = [(worker, commit.slice, seq) for worker, seq in commit.late]
            for refused in self.engine.applied(commit):
                self.desk.record(refused)
                settled.setdefault(refused.worker, []).append((refused.slice, refused.seq, Code.LATE, refused.version))
                late.append((refused.worker, refused.slice, refused.seq))
            if late:
                self.desk.actions.append(Drop(late))
            touched.update(push.worker for push in commit.contributions)
        self.desk.send_verdicts(settled)
        if self._committed > before:
            self.desk.actions.append(Send(CONTROLLER, Committed(self.shard, self._committed)))
        gathers = isinstance(self.engine, Rounds)
        for worker in sorted(touched):
            gathers |= self._close_ticks(worker)
        self._wake(None if gathers else touched)
        return self._end()

    def on_bad_payload(self, push: Push, why: str, now: float, more: bool = False) -> list[Action]:
        """The runtime found bytes or numbers that no honest worker sends: refused whole, the worker is fenced."""
        self.desk.now = now
        if self.membership.is_welcome(push):
            self.members[push.worker].fenced = True
            self.desk.send(push.worker, Rejected(push.incarnation, f"worker {push.worker}: {why}; it is fenced", True))
        return self._end(more)

    @property
    def _committed(self) -> int:
        """The clock below which no kept version is needed here; 0 where none is kept."""
        return self.engine.committed if self.gate.keep_versions and isinstance(self.engine, Rounds) else 0

    # ---- who may speak ----------------------------------------------------------------------------------------------

    def on_init(self, worker: int, slice_E: Int64, now: float, more: bool = False) -> list[Action]:
        """Initial values came; the first that came stay."""
        self.desk.now = now
        try:
            index_E = self.slices.local(slice_E)
        except PeerError as error:
            self.desk.send(worker, Rejected(0, str(error), fenced=False))
            return self._end(more)
        places = [p for p, index in enumerate(index_E) if not self.ledger.ready_S[index]]
        if places:
            self.desk.actions.append(Store(places, index_E[places].tolist()))
            self.desk.record(Initialised(index_E[places]))
            self.desk.nudge()  # a round without pushes may have been complete already
        self.desk.send(worker, InitDone(slice_E))
        self._wake(None)
        return self._end(more)

    def read(self, to: PeerId, read: Read, now: float, more: bool = False) -> list[Action]:
        """A reader's request: the current values, at once; nothing while some are not initialised (it asks again)."""
        self.desk.now = now
        self.pulls.read(to, read)
        return self._end(more)

    def _dispatch(self, message: Any) -> None:
        match message:
            case Push():
                self._push(message)
            case Pull():
                self.pulls.park(message)
                self._wake({message.worker})
            case Tick():
                self._tick(message)
            case Ask():
                self._ask(message)
            case Join():
                self.membership.join(message)
                self._wake(None)
            case Leave():
                self.membership.leave(message)
                self._wake(None)
            case Lost():
                self.membership.lost(message)
                self._wake(None)
            case Read():
                raise AssertionError("the runtime answers readers by `read`")
            case Place():
                self.slices.place(message)
            case CommittedByAll(clock) if isinstance(self.engine, Rounds):
                oldest = self.gate.oldest_kept = max(self.gate.oldest_kept, clock)
                self.desk.actions.append(Forget(self.engine.version_E(np.arange(len(self.ledger.ids_S)), oldest)))
            case Rate(order, lr, at_clock):
                self.desk.record(LrChanged(lr, at_clock))
                self.desk.actions.append(Send(CONTROLLER, Confirmed(self.shard, order)))
            case Rest(order, worker, resting):
                self.membership.make_room(int(worker))
                self.engine.rest(worker, resting)
                self.desk.actions.append(Send(CONTROLLER, Confirmed(self.shard, order)))
                self._wake(None)
            case _:
                raise PeerError(f"shard {self.shard}: expected a message for servers, got {type(message).__name__}")

    # ---- pushes and ticks -------------------------------------------------------------------------------------------

    def _push(self, push: Push) -> None:
        worker = push.worker
        if not self.ledger.live_W[worker]:
            return  # a copy that came after its Leave: what was unfinished then is dropped for good
        index_E = self.slices.local(push.slice_E).tolist()
        if not WEIGHT_MIN < push.weight < WEIGHT_MAX:
            raise PeerError(f"worker {worker}: push weight: expected > 0 and finite in float32, got {push.weight}")
        if self.ledger.unready and not self.ledger.ready_S[index_E].all():
            raise PeerError(f"worker {worker}: pushed a slice that has no initial values yet; pull it first")
        admitted_S = self.engine.admitted_WS[worker]
        kept = Keep(worker, [], [], [])
        gaps: list[tuple[int, int]] = []
        settled: list[tuple[int, int, int, int]] = []
        entries = zip(index_E, push.seq_E.tolist(), push.base_E.tolist(), strict=True)
        for place, (index, seq, base) in enumerate(entries):
            last = int(admitted_S[index])
            if seq == last + 1:
                code = self.engine.take(worker, index, seq, base, push.weight, push.clock)
                if code == Code.LATE:
                    self.desk.record(Refused(worker, index, seq, int(self.ledger.version_S[index])))
                else:
                    kept.place_E.append(place)
                    kept.slice_E.append(index)
                    kept.seq_E.append(seq)
                if code is not None:
                    settled.append((index, seq, code, int(self.ledger.version_S[index])))
            elif seq > last:
                gaps.append((index, last))
            else:
                settled.extend(self._stored(worker, index, seq))
        if kept.place_E:
            self.desk.actions.append(kept)
        self.desk.send_verdicts({worker: settled})
        self._send_gaps(worker, gaps)
        if isinstance(self.engine, Rounds):  # else verdicts of new pushes come with their commits
            self._close_ticks(worker)
        self._wake({worker})

    def _ask(self, ask: Ask) -> None:
        settled: list[tuple[int, int, int, int]] = []
        gaps: list[tuple[int, int]] = []
        for index, seq in zip(self.slices.local(ask.slice_E).tolist(), ask.seq_E.tolist(), strict=True):
            last = int(self.engine.admitted_WS[ask.worker, index])
            if seq > last:
                gaps.append((index, last))
            else:
                settled.extend(self._stored(ask.worker, index, seq))
        self.desk.send_verdicts({ask.worker: settled})
        self._send_gaps(ask.worker, gaps)

    def _send_gaps(self, worker: int, gaps: list[tuple[int, int]]) -> None:
        if gaps:
            ids = self.ledger.ids_S[[index for index, _ in gaps]]
            last_E = np.array([last for _, last in gaps])
            self.desk.send(worker, Gap(int(self.ledger.incarnation_W[worker]), ids, last_E))

    def _stored(self, worker: int, index: int, seq: int) -> list[tuple[int, int, int, int]]:
        """The verdict of a push that came again; none while it waits for its apply."""
        last = int(self.ledger.last_WS[worker, index])
        if seq <= last - VERDICTS_KEPT:
            return []  # a very late copy: its sender has had the verdict long ago
        if seq <= last:
            return [(index, seq, *self.ledger.verdict(worker, index, seq))]
        if isinstance(self.engine, Rounds):
            return [(index, seq, Code.GATHERED, int(self.ledger.version_S[index]))]
        return []

    def _tick(self, tick: Tick) -> None:
        """Ticked goes out when the clock is closed on every slice; for a copy of a closed one at once."""
        worker, member = tick.worker, self.members[tick.worker]
        if tick.clock >= member.clock:
            index_E = self.slices.local(tick.slice_E)
            seq_S = np.zeros(len(self.ledger.ids_S), np.int64)
            base_S = self.engine.open_S.copy() if isinstance(self.engine, Rounds) else np.zeros(len(seq_S), np.int64)
            seq_S[index_E], base_S[index_E] = tick.seq_E, tick.base_E
            member.ticks.append(OpenTick(tick.clock, seq_S, base_S, np.zeros(len(seq_S), np.bool_), len(seq_S)))
            member.clock = tick.clock + 1
            closed = self._close_ticks(worker)
            opens_others = closed and isinstance(self.engine, Arrivals)  # in rounds only a commit does
            self._wake(None if opens_others else {worker})
        elif not member.ticks:  # else the answer to the open one covers it
            self.desk.send(worker, Ticked(tick.incarnation, tick.clock, tick.clock == member.late_clock))

    def _close_ticks(self, worker: int) -> bool:
        """Closes the worker's clocks on slices where all pushes of them have a verdict. True when one closed."""
        member = self.members[worker]
        if not member.ticks:
            return False
        closed_one = False
        prefix_S = self.engine.prefix_S(worker)
        for tick in member.ticks:
            closed_S = (prefix_S >= tick.seq_S) & ~tick.closed_S
            if np.count_nonzero(closed_S):
                closed_one = True
                slices = closed_S.nonzero()[0]
                tick.closed_S |= closed_S
                tick.left -= len(slices)
                records, late = self.engine.finish(worker, slices, tick.clock + 1, tick.base_S[slices])
                self.desk.record(*records)
                tick.late |= late
        for tick in [tick for tick in member.ticks if not tick.left]:
            member.ticks.remove(tick)
            if tick.late:
                member.late_clock = max(member.late_clock, tick.clock)
            self.desk.send(worker, Ticked(int(self.ledger.incarnation_W[worker]), Clock(tick.clock), tick.late))
        return closed_one

    def _wake(self, woken: set[int] | None) -> None:
        """Pulls of these workers (None: of all) may have become open, commits due."""
        if woken is None:
            self._woken = None
        elif self._woken is not None:
            self._woken |= woken

    def _end(self, more: bool = False) -> list[Action]:
        """Answers pulls that have become open, then starts what can start.

        In this order: a commit may be done as soon as it starts, and the versions that are answered must be there.
        """
        if not more and (self._woken is None or self._woken):
            parked = self.pulls.parked
            for worker in sorted(parked if self._woken is None else self._woken & parked):
                self.pulls.answer_open(worker)
            self._woken = set()
            self.desk.apply()
        return self.desk.take_actions()
