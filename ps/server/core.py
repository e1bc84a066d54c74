"""One server's decisions: orders commits, answers pulls, fences the dead. No I/O, no arrays of values.

Events in (messages, finished applies), actions out; the runtime performs them in order. Same events, same actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ps.consistency import Consistency, Gather
from ps.errors import ConfigError, PeerError
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
    LeaveDone,
    Lost,
    Place,
    Placed,
    Pull,
    Push,
    Rate,
    Read,
    Rejected,
    Rest,
    Tick,
    Ticked,
    Verdicts,
    Welcome,
)
from ps.optim.base import Optimizer
from ps.optim.schedules import Schedule
from ps.server.actions import (
    Action,
    Answer,
    Apply,
    Drop,
    DropUnfinished,
    Forget,
    Keep,
    Replicate,
    Send,
    Store,
    Waited,
)
from ps.server.arrivals import Arrivals
from ps.server.gate import Gate
from ps.server.ledger import (
    VERDICTS_KEPT,
    Added,
    Commit,
    Initialised,
    Joined,
    Ledger,
    Left,
    LrChanged,
    Record,
    Refused,
    Sent,
)
from ps.server.members import Member, OpenTick, Parked
from ps.server.rounds import Rounds
from ps.transport.base import PART_BYTES
from ps.types import CONTROLLER, Clock, Int64, PeerId, worker_peer

JOIN_AHEAD_MAX = 1024  # ranks that a joiner may be above all known ones: a claim must not cost memory


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
        self.shard, self.model, self.optimizer, self.schedule = shard, model, optimizer, schedule
        self.keyspace = Keyspace()
        self.epoch = 0
        self.nbytes_S: Int64 = np.empty(0, np.int64)
        self.local_of: Int64 = np.empty(0, np.int64)  # slice id -> local index, -1: elsewhere
        self.ledger = Ledger(workers)
        engine = Rounds if isinstance(model.commit(workers), Gather) else Arrivals
        self.engine: Rounds | Arrivals = engine(self.ledger, model, self._lr)
        self.members = [Member() for _ in range(workers)]
        self.gate = Gate(self.ledger, self.engine, model, self.members, keep_versions)
        self.actions: list[Action] = []
        self.now = 0.0
        self.cause = -1  # the worker whose message led here: who opens a gate was waited for

    # ---- events -----------------------------------------------------------------------------------------------------

    def handle(self, message: Any, now: float) -> list[Action]:
        """One message of a worker or of the controller. A PeerError becomes a Rejected to its sender."""
        self.now = now
        worker = getattr(message, "worker", None) if hasattr(message, "incarnation") else None
        self.cause = self.cause if worker is None else int(worker)
        try:
            if worker is None or self._is_welcome(message):
                self._dispatch(message)
        except PeerError as error:
            if worker is None:
                raise
            incarnation = int(getattr(message, "incarnation", 0))
            self._send(worker, Rejected(incarnation, str(error), fenced=False))
        return self._take_actions()

    def on_applied(self, commits: list[Commit], now: float) -> list[Action]:
        """The commits are in the values."""
        self.now = now
        least_before = int(self.ledger.version_S.min(initial=2**62))
        touched: set[int] = set()
        settled: dict[int, list[tuple[int, int, int, int]]] = {}
        for commit in commits:
            self._record(commit)
            for push in commit.contributions:
                settled.setdefault(push.worker, []).append((commit.slice, push.seq, Code.APPLIED, commit.version))
            for worker, seq in commit.late:
                settled.setdefault(worker, []).append((commit.slice, seq, Code.LATE, commit.version))
            late = [(worker, commit.slice, seq) for worker, seq in commit.late]
            for refused in self.engine.applied(commit):
                self._record(refused)
                settled.setdefault(refused.worker, []).append((refused.slice, refused.seq, Code.LATE, refused.version))
                late.append((refused.worker, refused.slice, refused.seq))
            if late:
                self.actions.append(Drop(late))
            touched.update(push.worker for push in commit.contributions)
        self._send_verdicts(settled)
        least = int(self.ledger.version_S.min(initial=2**62))
        if self.gate.keep_versions and least > least_before:
            self.actions.append(Send(CONTROLLER, Committed(self.shard, least)))
        gathers = isinstance(self.engine, Rounds)
        for worker in sorted(touched):
            gathers |= self._close_ticks(worker)
        self._progress(None if gathers else touched)
        return self._take_actions()

    def on_bad_payload(self, push: Push, why: str, now: float) -> list[Action]:
        """The runtime found bytes or numbers that no honest worker sends: refused whole, the worker is fenced."""
        self.now = now
        if self._is_welcome(push):
            self.members[push.worker].fenced = True
            self._send(push.worker, Rejected(push.incarnation, f"worker {push.worker}: {why}; it is fenced", True))
        return self._take_actions()

    # ---- who may speak ----------------------------------------------------------------------------------------------

    def _is_welcome(self, message: Any) -> bool:
        """Fences old incarnations and strangers; notes a sign of life."""
        if isinstance(message, Lost):
            return True
        worker, incarnation = int(message.worker), int(message.incarnation)
        if worker < 0 or (worker >= len(self.members) and not isinstance(message, Join)):
            raise PeerError(f"worker {worker}: expected a rank below {len(self.members)}; join first")
        if isinstance(message, Join):
            if worker >= len(self.members) + JOIN_AHEAD_MAX:
                raise PeerError(f"worker {worker}: expected a rank below {len(self.members) + JOIN_AHEAD_MAX}")
            self._make_room(worker)
        known = int(self.ledger.incarnation_W[worker])
        member = self.members[worker]
        if incarnation < known or (incarnation == known and member.fenced):
            why = f"worker {worker}: expected incarnation >= {known + member.fenced}, got {incarnation}"
            self._send(worker, Rejected(incarnation, f"{why}; it was declared lost or restarted", fenced=True))
            return False
        if incarnation > known and not isinstance(message, Join):
            return False  # overtook its own Join: comes again
        member.heard = self.now
        return True

    def _dispatch(self, message: Any) -> None:
        match message:
            case Push():
                self._push(message)
            case Pull():
                self._pull(message)
            case Tick():
                self._tick(message)
            case Ask():
                self._ask(message)
            case Join():
                self._join(message)
            case Leave():
                self._leave(message)
            case Lost():
                self._lost(message)
            case Read():
                raise AssertionError("the runtime answers readers by `read`")
            case Place():
                self._place(message)
            case CommittedByAll(version):
                self.gate.oldest_kept = max(self.gate.oldest_kept, version)
                self.actions.append(Forget(self.gate.oldest_kept))
            case Rate(order, lr, at_clock):
                self._record(LrChanged(lr, at_clock))
                self.actions.append(Send(CONTROLLER, Confirmed(self.shard, order)))
            case Rest(order, worker, resting):
                self._make_room(int(worker))
                self.engine.rest(worker, resting)
                self.actions.append(Send(CONTROLLER, Confirmed(self.shard, order)))
                self._progress(None)
            case _:
                raise PeerError(f"shard {self.shard}: expected a message for servers, got {type(message).__name__}")

    # ---- slices -----------------------------------------------------------------------------------------------------

    def _place(self, place: Place) -> None:
        """A batch of parameters, or the part of it that lives here."""
        if place.epoch > self.epoch:
            try:
                ids = self.keyspace.extend([spec.parameter() for spec in place.specs])
            except ConfigError as error:
                raise PeerError(f"controller: {error}") from None
            if len(ids) != len(place.shard_E):
                raise PeerError(f"placement map: expected {len(ids)} new slices, got {len(place.shard_E)}")
            self.epoch = place.epoch
            self._add_slices(np.flatnonzero(place.shard_E == self.shard) + ids.start)
        self.actions.append(Send(CONTROLLER, Placed(self.shard, self.epoch)))

    def _add_slices(self, ids: Int64) -> None:
        first, count = len(self.ledger.ids_S), len(ids)
        clock_W = np.array([member.clock for member in self.members], np.int64)
        version, clock_W = self.engine.start_of_new(clock_W)
        self._record(Added(ids, version, clock_W))
        self.engine.add_slices(count)
        nbytes = np.array([self.keyspace.slices[i].nbytes for i in ids.tolist()], np.int64)
        self.nbytes_S = np.concatenate((self.nbytes_S, nbytes))
        self.local_of = np.full(len(self.keyspace.slices), -1)
        self.local_of[self.ledger.ids_S] = np.arange(first + count)
        none = np.zeros(count, np.int64)
        for worker, member in enumerate(self.members):
            for tick in member.ticks:  # nothing was pushed on the new slices: closed there
                tick.seq_S, tick.base_S = np.concatenate((tick.seq_S, none)), np.concatenate((tick.base_S, none))
                tick.open_S = np.concatenate((tick.open_S, none.astype(np.bool_)))
            if member.clock and isinstance(self.engine, Rounds) and self.engine.by_clock:
                self.engine.finish(worker, np.arange(first, first + count), member.clock, none)

    def _local(self, slice_E: Int64) -> Int64:
        """Local indices. Raises: PeerError for a slice that does not live here."""
        if len(slice_E) and int(slice_E.max()) >= len(self.local_of):
            wrong = int(slice_E.max())
            raise PeerError(f"slice {wrong}: expected one below {len(self.local_of)}; fetch the placement map")
        index_E: Int64 = self.local_of[slice_E]
        if (index_E < 0).any():
            wrong = int(slice_E[index_E < 0][0])
            raise PeerError(f"slice {wrong}: it does not live on shard {self.shard}; fetch placement map {self.epoch}")
        return index_E

    def on_init(self, worker: int, slice_E: Int64, now: float) -> list[Action]:
        """Initial values came; the first that came stay."""
        self.now = now
        try:
            index_E = self._local(slice_E)
        except PeerError as error:
            self._send(worker, Rejected(0, str(error), fenced=False))
            return self._take_actions()
        places = [p for p, index in enumerate(index_E) if not self.ledger.ready_S[index]]
        if places:
            self.actions.append(Store(places, index_E[places].tolist()))
            self._record(Initialised(index_E[places]))
            self._nudge()  # a round without pushes may have been complete already
        self._send(worker, InitDone(slice_E))
        self._progress(None)
        return self._take_actions()

    # ---- pushes and ticks -------------------------------------------------------------------------------------------

    def _push(self, push: Push) -> None:
        worker = push.worker
        if not self.ledger.live_W[worker]:
            return  # a copy that came after its Leave: what was unfinished then is dropped for good
        index_E = self._local(push.slice_E).tolist()
        with np.errstate(over="ignore"):
            weight = float(np.float32(push.weight))
        if not 0 < weight < float("inf"):
            raise PeerError(f"worker {worker}: push weight: expected > 0 and finite in float32, got {push.weight}")
        if not self.ledger.ready_S[index_E].all():
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
                    self._record(Refused(worker, index, seq, int(self.ledger.version_S[index])))
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
            self.actions.append(kept)
        self._send_verdicts({worker: settled})
        self._send_gaps(worker, gaps)
        self._close_ticks(worker)
        self._progress({worker})

    def _ask(self, ask: Ask) -> None:
        settled: list[tuple[int, int, int, int]] = []
        gaps: list[tuple[int, int]] = []
        for index, seq in zip(self._local(ask.slice_E).tolist(), ask.seq_E.tolist(), strict=True):
            last = int(self.engine.admitted_WS[ask.worker, index])
            if seq > last:
                gaps.append((index, last))
            else:
                settled.extend(self._stored(ask.worker, index, seq))
        self._send_verdicts({ask.worker: settled})
        self._send_gaps(ask.worker, gaps)

    def _send_gaps(self, worker: int, gaps: list[tuple[int, int]]) -> None:
        if gaps:
            ids = self.ledger.ids_S[[index for index, _ in gaps]]
            last_E = np.array([last for _, last in gaps])
            self._send(worker, Gap(int(self.ledger.incarnation_W[worker]), ids, last_E))

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
            index_E = self._local(tick.slice_E)
            seq_S = np.zeros(len(self.ledger.ids_S), np.int64)
            base_S = self.engine.open_S.copy() if isinstance(self.engine, Rounds) else np.zeros_like(seq_S)
            seq_S[index_E], base_S[index_E] = tick.seq_E, tick.base_E
            member.ticks.append(OpenTick(tick.clock, seq_S, base_S, np.ones(len(seq_S), np.bool_)))
            member.clock = tick.clock + 1
            closed = self._close_ticks(worker)
            opens_others = closed and isinstance(self.engine, Arrivals)  # in rounds only a commit does
            self._progress(None if opens_others else {worker})
        elif not member.ticks:  # else the answer to the open one covers it
            self._send(worker, Ticked(tick.incarnation, tick.clock, tick.clock == member.late_clock))

    def _close_ticks(self, worker: int) -> bool:
        """Closes the worker's clocks on slices where all pushes of them have a verdict. True when one closed."""
        member = self.members[worker]
        closed_one = False
        for tick in member.ticks:
            closed_S = tick.open_S & (self.engine.prefix_S(worker) >= tick.seq_S)
            if closed_S.any():
                closed_one = True
                tick.open_S &= ~closed_S
                slices = np.flatnonzero(closed_S)
                records, late = self.engine.finish(worker, slices, tick.clock + 1, tick.base_S[slices])
                self._records(records)
                tick.late |= late
        for tick in [tick for tick in member.ticks if not tick.open_S.any()]:
            member.ticks.remove(tick)
            if tick.late:
                member.late_clock = max(member.late_clock, tick.clock)
            self._send(worker, Ticked(int(self.ledger.incarnation_W[worker]), Clock(tick.clock), tick.late))
        return closed_one

    # ---- pulls ------------------------------------------------------------------------------------------------------

    def _pull(self, pull: Pull) -> None:
        member, index_E = self.members[pull.worker], self._local(pull.slice_E)
        member.oldest = max(member.oldest, pull.oldest)
        for stale in [i for i in member.pulls if i < member.oldest]:
            del member.pulls[stale]
        if pull.id < member.oldest:
            return  # a late copy of a pull that was answered
        parked = member.pulls.get(pull.id)
        since = self.now if parked is None else parked.since
        member.pulls[pull.id] = Parked(pull, index_E, pull.seq_E, since)
        self._answer_open(pull.worker)
        if parked is not None and pull.id in member.pulls:
            self._send(pull.worker, self.gate.why_waiting(pull, index_E, self.now))

    def _answer_open(self, worker: int) -> None:
        """Answers parked pulls as far as the gate is open; a part only when it is worth a message."""
        member = self.members[worker]
        pulls = member.pulls
        for parked in [parked for parked in pulls.values() if parked.pull.clock <= member.clock]:
            pull, readable_E = parked.pull, self.gate.readable_E(parked.pull, parked.index_E, parked.seq_E)
            index_E = parked.index_E[readable_E]
            if len(index_E) == len(parked.index_E):
                del pulls[pull.id]
                if self.now > parked.since:
                    self.actions.append(Waited(worker, self.cause, self.now - parked.since))
            elif int(self.nbytes_S[index_E].sum()) >= PART_BYTES:
                parked.index_E, parked.seq_E = parked.index_E[~readable_E], parked.seq_E[~readable_E]
            else:
                continue
            if (version_E := self.gate.version_E(index_E, pull.clock)) is not None:
                self._answer(worker_peer(worker), pull.id, index_E, version_E)
            if self.optimizer.needs_base:
                self._record(Sent(worker, index_E))

    def read(self, to: PeerId, read: Read, now: float) -> list[Action]:
        """A reader's request: the current values, at once; nothing while some are not initialised (it asks again)."""
        self.now = now
        index_E = self._local(read.slice_E)
        if self.ledger.ready_S[index_E].all():
            self._answer(to, read.id, index_E, self.ledger.version_S[index_E])
        return self._take_actions()

    def _answer(self, to: PeerId, id: int, index_E: Int64, version_E: Int64) -> None:
        min_clock_E = self.ledger.min_clock_S()[index_E]
        lr = self._lr(int(min_clock_E.min())) if len(index_E) else 0.0
        self.actions.append(Answer(to, id, index_E, version_E, min_clock_E, lr, self._rate()))

    # ---- members ----------------------------------------------------------------------------------------------------

    def _join(self, join: Join) -> None:
        worker, member = join.worker, self.members[join.worker]
        if join.incarnation > self.ledger.incarnation_W[worker]:
            self._discard(worker)
            member.joined = not self.ledger.live_W[worker]
            member.fenced = False
            member.oldest = 0
            if member.joined:
                clock_S = np.maximum(self.engine.joining_clock_S(), self.ledger.clock_WS[worker])
                self._record(Joined(worker, join.incarnation, clock_S))
                self.engine.join(worker)
                live = [m.clock for w, m in enumerate(self.members) if self.ledger.live_W[w] and w != worker]
                least = min(live, default=member.clock)
                by_version = isinstance(self.engine, Rounds) and not self.engine.by_clock
                own_S = self.engine.clock_S(worker)  # its first tick has to close what is behind on any slice
                member.clock = int(own_S.min()) if len(own_S) and not by_version else int(clock_S.max(initial=least))
            else:
                self._record(Joined(worker, join.incarnation, self.ledger.clock_WS[worker].copy()))
                member.clock = int(self._clock_S(worker).min(initial=member.clock))
        clock_S = self._clock_S(worker)
        ids, seq_S = self.ledger.ids_S, self.engine.admitted_WS[worker].copy()
        ahead = np.array(self.engine.ahead(worker), np.int64).reshape(-1, 2)
        stands = (ids, seq_S, clock_S, ids[ahead[:, 0]], ahead[:, 1])
        self._send(worker, Welcome(join.incarnation, member.joined, Clock(member.clock), *stands))
        self._progress(None)

    def _clock_S(self, worker: int) -> Int64:
        """Clocks that the worker has finished, per slice; where rounds are versions, its ticks."""
        if isinstance(self.engine, Rounds) and not self.engine.by_clock:
            return np.full(len(self.ledger.ids_S), self.members[worker].clock)
        return self.engine.clock_S(worker)

    def _leave(self, leave: Leave) -> None:
        worker = leave.worker
        if self.ledger.live_W[worker]:
            self._discard(worker)
            self._record(Left(worker, leave.incarnation, done=True))
            self._nudge()
        self._send(worker, LeaveDone(leave.incarnation))
        self._progress(None)

    def _lost(self, lost: Lost) -> None:
        """The controller says that a worker is gone."""
        worker = int(lost.worker)
        if lost.wait:
            return
        self._make_room(worker)  # its Join may come after the news of its end: then it is refused
        known, live = int(self.ledger.incarnation_W[worker]), bool(self.ledger.live_W[worker])
        if lost.incarnation < known:
            return
        if live:
            self._discard(worker)
        if live or lost.incarnation > known:
            self._record(Left(worker, lost.incarnation, done=False))
        self.members[worker].fenced = True
        self._nudge()
        self._progress(None)

    def _discard(self, worker: int) -> None:
        """Drops what the worker left unfinished: queued pushes, open rounds, open ticks, parked pulls."""
        self.actions.append(DropUnfinished(worker, self.engine.discard(worker)))
        member = self.members[worker]
        member.clock = min([member.clock, *(tick.clock for tick in member.ticks)])  # what was not closed, it does again
        member.ticks.clear()
        member.pulls.clear()

    def _make_room(self, worker: int) -> None:
        self.ledger.make_room(worker)
        self.engine.make_room(worker)
        while len(self.members) <= worker:
            self.members.append(Member())

    # ---- common -----------------------------------------------------------------------------------------------------

    def _nudge(self) -> None:
        """Membership changed: rounds may be complete now."""
        if isinstance(self.engine, Rounds):
            self.engine.changed = True

    def _progress(self, woken: set[int] | None) -> None:
        """Answers pulls that have become open (`woken`: whose, None: everybody's), then starts what can start.

        In this order: a commit may be done as soon as it starts, and the versions that are answered must be there.
        """
        for worker in range(len(self.members)) if woken is None else sorted(woken):
            if self.members[worker].pulls:
                self._answer_open(worker)
        if commits := self.engine.due():
            self.actions.append(Apply(commits))

    def _lr(self, clock: int) -> float:
        return self.ledger.lr(clock, self.optimizer.lr * self.schedule.factor(clock))

    def _rate(self) -> float:
        decision = self.model.commit(self.ledger.sharing)
        return 1.0 if isinstance(decision, Gather) else decision.rate

    def _record(self, record: Record) -> None:
        self.ledger.apply(record)
        self.actions.append(Replicate(record))

    def _records(self, records: list[Record]) -> None:
        for record in records:
            self._record(record)

    def _send(self, worker: int, body: Any) -> None:
        self.actions.append(Send(worker_peer(worker), body))

    def _send_verdicts(self, settled: dict[int, list[tuple[int, int, int, int]]]) -> None:
        for worker, entries in sorted(settled.items()):
            if entries:
                index_E, seq_E, code_E, version_E = (np.array(column) for column in zip(*entries, strict=True))
                incarnation = int(self.ledger.incarnation_W[worker])
                self._send(worker, Verdicts(incarnation, self.ledger.ids_S[index_E], seq_E, code_E, version_E))

    def _take_actions(self) -> list[Action]:
        actions, self.actions = self.actions, []
        return actions
