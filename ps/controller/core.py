"""The controller's decisions: who takes part, where slices live, when the job ends. No I/O.

It is asked rarely; training goes on without it. Control links are reliable and ordered (one process, or gRPC).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from ps.controller.actions import Send
from ps.controller.batches import Batches, Settle
from ps.controller.leases import Leases
from ps.messages import (
    TEXT_MAX,
    Barrier,
    BarrierOpen,
    BatchReady,
    Committed,
    CommittedByAll,
    Confirmed,
    Done,
    Enroll,
    Enrolled,
    EpochDone,
    EpochEnd,
    Lease,
    Log,
    Lost,
    LrSet,
    Placed,
    Progress,
    Rate,
    Register,
    Rejected,
    Rest,
    SetLr,
    Skipped,
    Stop,
    Waiting,
    Withheld,
)
from ps.types import JOIN_AHEAD_MAX, Clock, PeerId, WorkerId, server_peer, worker_peer


@dataclass(slots=True)
class Member:
    """What the controller knows of one worker rank."""

    incarnation: int = 0
    state: Literal["expected", "running", "lost", "done"] = "expected"
    heard: float = 0.0
    clock: int = 0
    epoch: int = -1  # last data epoch it has been through
    registered: bool = False  # the first batch
    barrier: int = 0  # last barrier reached
    first_barrier: int = 0  # opened before it came for the first time
    opening: int = 0  # barriers that its script comes to before its first clock
    logged: dict[str, float] = field(default_factory=dict)
    logged_clock: int = 0


class Controller:
    """Membership, registration, barriers, epochs, the end."""

    def __init__(
        self,
        workers: int,
        shards: int,
        config: str,
        on_worker_loss: Literal["wait", "drop"] = "drop",
        epoch_share: float = 1.0,
        lease_s: float = float("inf"),
        restart_s: float = 60.0,
        tells_rest: bool = False,
        settle: Settle | None = None,
        check_optimizer: Callable[[str], object] = str,
    ) -> None:
        self.size, self.shards, self.config = workers, shards, config
        self.on_worker_loss, self.epoch_share = on_worker_loss, epoch_share
        self.lease_s, self.restart_s = lease_s, restart_s  # seconds without progress; until a lost worker is back
        self.tells_rest = tells_rest  # shards commit by quorum: they must not count on workers that wait for others
        self.members: dict[int, Member] = {rank: Member() for rank in range(workers)}
        self.readers: list[PeerId] = []
        self.batches = Batches(self, shards, settle, check_optimizer)
        self.committed: dict[int, int] = {}  # shard -> clock
        self.committed_by_all = 0
        self.leases = Leases()
        self.idle: set[int] = set()  # ranks that push nothing until they are lent something
        self.barrier_opened = 0
        self.epoch_ended = -1
        self.skipped: dict[int, int] = {}  # data epoch -> examples left out
        self.stopped: Stop | None = None
        self.began_at: float | None = None  # when the first clock of all was finished
        self._orders = 0  # given to shards
        self._unconfirmed: dict[int, tuple[set[int], list[Send]]] = {}  # order -> shards, what follows when all have
        self._send: list[Send] = []
        self._now = 0.0

    # ---- events -----------------------------------------------------------------------------------------------------

    def handle(self, sender: PeerId, message: Any, now: float) -> list[Send]:
        """One message of a worker, reader or shard."""
        self._now = now
        rank = getattr(message, "worker", None) if hasattr(message, "incarnation") else None
        if rank is None:
            self._of_anyone(sender, message)
        elif rank in self.members and message.incarnation == self.members[rank].incarnation:
            self.members[rank].heard = now
            if self.members[rank].state == "lost" and self.on_worker_loss == "wait":
                self.members[rank].state = "running"  # it was only slow
            if not (self.members[rank].state == "lost" and isinstance(message, Done)):  # the others go on without it
                self._of_worker(self.members[rank], message)
        else:
            reason = f"worker {rank}: expected its current incarnation, got {message.incarnation}; it was restarted"
            self.post(sender, Rejected(message.incarnation, reason, fenced=True))
        return self._take()

    def on_timer(self, now: float) -> list[Send]:
        """Looks for workers without progress, and for lost ones that did not come back."""
        self._now = now
        for rank, member in self.members.items():
            if member.state == "running" and now - member.heard > self.lease_s:
                self._lose(rank, f"no progress for {now - member.heard:.1f} s, last at clock {member.clock}")
            elif member.state == "lost" and self._keeps_places and now - member.heard > self.restart_s:
                self._stop(f"worker {rank} was lost at clock {member.clock} and not back in {self.restart_s:g} s", True)
        return self._take()

    def next_timer(self) -> float:
        """When `on_timer` may have something to do."""
        waits = [m.heard + self.lease_s for m in self.members.values() if m.state == "running"]
        if self._keeps_places:
            waits += [m.heard + self.restart_s for m in self.members.values() if m.state == "lost"]
        failed = self.stopped is not None and self.stopped.failed  # else the others finish their clock, and wait
        return float("inf") if failed else min(waits, default=float("inf"))

    def worker_lost(self, rank: int, why: str, now: float) -> list[Send]:
        """The runtime knows that a worker is gone (its process or thread ended without a word)."""
        self._now = now
        self._lose(rank, why)
        return self._take()

    def server_lost(self, shard: int, why: str, now: float) -> list[Send]:
        """A server is gone, and with it the only copy of its slices."""
        self._now = now
        ids = self.batches.map.of_shard(shard)
        held = ", ".join(self.batches.keyspace.describe(int(i)) for i in ids[:3])
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        what = f"with the only copy of {held}{more}" if held else "before it held any values"
        self._stop(f"server {shard} was lost ({why}) {what}; start the run again", True)
        return self._take()

    @property
    def _keeps_places(self) -> bool:
        """A lost worker is waited for; no longer once the job has been stopped."""
        return self.on_worker_loss == "wait" and self.stopped is None

    @property
    def live(self) -> list[int]:
        """Ranks that others may have to wait for."""
        waits = ("expected", "running", "lost") if self._keeps_places else ("expected", "running")
        return [rank for rank, member in sorted(self.members.items()) if member.state in waits]

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _of_anyone(self, sender: PeerId, message: Any) -> None:
        match message:
            case Enroll():
                self._enroll(sender, message)
            case Placed(shard, epoch):
                self.batches.placed(shard, epoch)
            case Committed(shard, clock):
                self._committed(shard, clock)
            case Confirmed(shard, order) if order in self._unconfirmed:
                missing, follow = self._unconfirmed[order]
                missing.discard(shard)
                if not missing:
                    del self._unconfirmed[order]
                    self._send.extend(follow)
            case Stop(reason, failed):
                self._stop(reason, failed)
            case _:
                self.post(sender, Rejected(0, f"controller: no use for a {type(message).__name__}", fenced=False))

    def _of_worker(self, member: Member, message: Any) -> None:
        match message:
            case Register():
                self.batches.register(message)
            case BatchReady(rank, _, number):
                self.batches.ready(number, int(rank))
            case Progress(_, _, clock):
                member.clock = clock
                if clock and self.began_at is None:
                    self.began_at = self._now
            case Log():
                member.logged.update(zip(message.names, message.values, strict=False))
                member.logged_clock = message.clock
            case Barrier(rank, _, number, begun):
                asked_again, member.barrier = number == member.barrier, number
                if not begun and member.incarnation == 1:
                    member.opening = number - member.first_barrier
                if number <= self.barrier_opened:  # a joiner's or a restarted worker's: long open
                    self.post(worker_peer(rank), BarrierOpen(number))
                elif asked_again:
                    self.post(worker_peer(rank), self._who_is_behind(number))
                else:
                    self.rest([rank], True)
                self._open_barriers()
            case EpochDone(_, _, epoch):
                member.epoch = epoch
                self._end_epochs()
            case SetLr(rank, _, number, lr, at_clock):
                self._order(lambda order: Rate(order, lr, at_clock), [Send(worker_peer(rank), LrSet(number))])
            case Skipped(_, _, epoch, examples):
                self.skipped[epoch] = self.skipped.get(epoch, 0) + examples
            case Lease():
                self._lease(member, message)
            case Done(rank, _, error):
                self._done(int(rank), member, error)

    def _enroll(self, sender: PeerId, enroll: Enroll) -> None:
        if enroll.reader:  # values can be read after the end
            self.readers.append(sender)
            for batch in self.batches.all:
                self.post(sender, batch.place)
            self.post(sender, Enrolled(WorkerId(-1), 0, enroll.nonce, self.size, self.config))
            if self.stopped is not None:
                self.post(sender, self.stopped)
        elif self.stopped is not None:
            self.post(sender, self.stopped)
        else:
            rank = int(enroll.rank)
            if rank > max(self.members) + JOIN_AHEAD_MAX:
                why = f"rank: expected one below {max(self.members) + JOIN_AHEAD_MAX + 1}, got {rank}; see PS_RANK"
                self.post(sender, Rejected(0, why, fenced=False))
                return
            if rank < 0:
                wanted = ("lost", "expected") if self._keeps_places else ("expected",)  # others wait for who is lost
                free = [rank for state in wanted for rank, m in sorted(self.members.items()) if m.state == state]
                rank = free[0] if free else max(self.members) + 1
            member = self.members.setdefault(rank, Member())
            member.incarnation += 1
            member.state, member.heard, member.barrier = "running", self._now, 0
            if member.incarnation == 1:
                member.first_barrier = self.barrier_opened
            passed = min(member.opening, self.barrier_opened - member.first_barrier)
            size = max(self.size, sum(m.state != "done" for m in self.members.values()))
            about = (WorkerId(rank), member.incarnation, enroll.nonce, size, self.config)
            self.post(worker_peer(rank), Enrolled(*about, self.barrier_opened, self.epoch_ended + 1, passed))
            self.batches.forget(rank)
            self._take_back(rank)

    def _committed(self, shard: int, clock: int) -> None:
        self.committed[shard] = max(clock, self.committed.get(shard, 0))
        holders = {int(s) for s in np.unique(self.batches.map.shard_S)}
        least = min((self.committed.get(s, 0) for s in holders), default=0)
        if least > self.committed_by_all:
            self.committed_by_all = least
            for s in sorted(holders):
                self.post(server_peer(s), CommittedByAll(least))

    def _open_barriers(self) -> None:
        live = self.live
        reached = min((self.members[rank].barrier for rank in live), default=0)
        if reached > self.barrier_opened:
            self.barrier_opened = reached
            self.rest(live, False, [Send(worker_peer(rank), BarrierOpen(reached)) for rank in live])

    def rest(self, ranks: list[int], resting: bool, follow: list[Send] | None = None) -> None:
        """Tells the shards who waits for others, or goes on; what follows is sent once all of them know."""
        for rank in ranks if self.tells_rest else ():
            last = rank == ranks[-1]
            self._order(partial(Rest, worker=WorkerId(rank), resting=resting), (follow or []) if last else [])
        if not self.tells_rest:
            self._send.extend(follow or [])

    def _order(self, make: Callable[[int], Any], follow: list[Send]) -> None:
        self._orders += 1
        self._unconfirmed[self._orders] = (set(range(self.shards)), follow)
        for shard in range(self.shards):
            self.post(server_peer(shard), make(self._orders))

    def _who_is_behind(self, barrier: int) -> Waiting:
        return self.waiting_for(next(rank for rank in self.live if self.members[rank].barrier < barrier), barrier)

    def waiting_for(self, rank: int, number: int) -> Waiting:
        """Whom a barrier or a batch waits for, as its workers hear it."""
        member = self.members[rank]
        silent_s = self._now - member.heard if member.incarnation else -1.0
        return Waiting(number, -1, WorkerId(rank), member.clock, silent_s)

    def _end_epochs(self) -> None:
        """Project Adam's rule: an epoch ends when this share of the workers has been through it (OSDI 2014)."""
        live = self.live
        needed = max(math.ceil(self.epoch_share * len(live)), 1)
        through = sorted((self.members[rank].epoch for rank in live), reverse=True)
        if len(through) >= needed and through[needed - 1] > self.epoch_ended:
            self.epoch_ended = through[needed - 1]
            for rank in live:
                self.post(worker_peer(rank), EpochEnd(self.epoch_ended))

    def _lease(self, member: Member, message: Lease) -> None:
        rank, what = int(message.worker), f"data set {message.data!r}: "
        if member.state != "running":  # nobody would take back what it got
            why = f"worker {rank}: {what}the others go on without it, it was lost at clock {member.clock}"
            self.post(worker_peer(rank), Rejected(message.incarnation, why, fenced=True))
        elif wrong := self.leases.check(message, member.clock):
            self.post(worker_peer(rank), Rejected(message.incarnation, f"worker {rank}: {what}{wrong}", fenced=False))
        else:
            self.leases.ask(message)
            self._lend()
            if rank in self.leases.sets[message.data].open:
                self._withhold(rank, message)

    def _withhold(self, rank: int, message: Lease) -> None:
        """It waits for others: where that matters, the shards must not wait for it."""
        if not message.waits:
            self.idle.discard(rank)
            self.leases.sets[message.data].let(rank, message.clock + 1)
        elif rank not in self.idle:
            self.idle.add(rank)
            self.rest([rank], True)
        holder = WorkerId(self.leases.holder(message.data))
        note = self.waiting_for(holder, message.id)
        self.post(
            worker_peer(rank), Withheld(message.data, message.id, message.clock, holder, note.clock, note.silent_s)
        )

    def _lend(self) -> None:
        for rank, answer in self.leases.answers():
            if rank in self.idle:
                self.idle.discard(rank)
                self.rest([rank], False, [Send(worker_peer(rank), answer)])
            else:
                self.post(worker_peer(rank), answer)

    def _take_back(self, rank: int) -> None:
        self.idle.discard(rank)
        self.leases.give_back(rank)
        self._lend()

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _done(self, rank: int, member: Member, error: str) -> None:
        member.state = "done"
        if error:
            self._post_lost(rank, member, wait=False)
            self._stop(f"worker {rank} failed at clock {member.clock}:\n{error}", failed=True)
        elif not self.live:
            self._stop("all workers are done", failed=False)
        self._after_loss(rank)

    def _lose(self, rank: int, why: str) -> None:
        member = self.members.get(rank)
        if member is None or member.state not in ("running", "expected"):
            return
        member.state, member.heard = "lost", self._now
        self._post_lost(rank, member, wait=self._keeps_places)
        if not self.live:
            self._stop(f"worker {rank} was lost ({why}), and no other is left", failed=True)
        self._after_loss(rank)

    def _post_lost(self, rank: int, member: Member, wait: bool) -> None:
        for shard in range(self.shards):
            self.post(server_peer(shard), Lost(WorkerId(rank), member.incarnation, wait))

    def _after_loss(self, rank: int) -> None:
        self.batches.forget(rank)
        self._open_barriers()
        self._end_epochs()
        self._take_back(rank)

    def _stop(self, reason: str, failed: bool) -> None:
        if self.stopped is None:
            self.stopped = Stop(reason.encode(errors="replace")[:TEXT_MAX].decode(errors="ignore"), failed)
            for rank, member in sorted(self.members.items()):
                if member.state == "running":
                    self.post(worker_peer(rank), self.stopped)
                elif member.state == "lost":
                    self._post_lost(rank, member, wait=False)  # nobody brings it back now
            for reader in self.readers:
                self.post(reader, self.stopped)

    def post(self, to: PeerId, body: Any) -> None:
        """A message to a peer, among the actions of the event at hand."""
        self._send.append(Send(to, body))

    def _take(self) -> list[Send]:
        sends, self._send = self._send, []
        return sends

    def clock(self) -> Clock:
        """The least clock of the running workers, as far as they have said."""
        return Clock(min((m.clock for m in self.members.values() if m.state == "running"), default=0))
