"""Performs what a Session decides: owns the arrays, sends, waits. Runs in the caller's thread."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ps import wire
from ps.config import RunConfig
from ps.errors import ConfigError, DeadlineError, FrameError, PeerError, StoppedError
from ps.keyspace import Keyspace
from ps.messages import (
    BarrierOpen,
    Code,
    Done,
    Enroll,
    Enrolled,
    EpochEnd,
    Leased,
    LrSet,
    Probe,
    Registered,
    Rejected,
    Stop,
    Waiting,
    Withheld,
)
from ps.metrics import Metrics
from ps.transport.base import Message
from ps.transport.outbox import Outbox
from ps.types import CONTROLLER, Array, Int64, PeerId, WorkerId, worker_peer
from ps.worker.actions import Action, Deliver, PullEntry, Send, Settled
from ps.worker.ahead import Ahead
from ps.worker.arrays import Arrays
from ps.worker.core import Session
from ps.worker.encoder import encoder_seed
from ps.worker.leases import Leases
from ps.worker.missing import Missing
from ps.worker.pace import Pace
from ps.worker.payloads import Payloads, Sink
from ps.worker.port import Port
from ps.worker.pulling import PullFuture
from ps.worker.pushing import Pushed, Pushing
from ps.worker.registration import Registration
from ps.worker.reports import Reports
from ps.worker.schemes import Schemes
from ps.worker.standing import knows_updates

log = logging.getLogger("ps")


class Worker:
    """One worker: its session, its arrays, its waits."""

    def __init__(self, port: Port, job: bytes, rank: int, timeout_s: float = 60.0) -> None:
        self.port, self.job = port, job
        self.metrics = Metrics()
        self.pid = os.getpid()
        self.keyspace = Keyspace()
        self.stopped: Stop | None = None
        self.rejected: str | None = None
        self.enrolled: Enrolled | None = None
        self.has_session = False
        self.registration = Registration(self)
        self.barriers = 0
        self.passed = 0  # barriers that this one, started again, is not held up at
        self.has_ticked = False
        self.barrier_opened = 0
        self.behind: Waiting | None = None  # whom a barrier, or a batch without initial values, waits for
        self.lr_asked = self.lr_set = 0  # changes that this worker asked for; the last that is in force
        self.epoch_ended = -1
        self.leases: dict[str, Leases] = {}  # by data set
        self.link = 0.0  # bytes per second to a server; 0: not measured
        self.probed = 0  # the last probe that has come back
        self.verdicts: dict[
            int, dict[int, tuple[Code, int]]
        ] = {}  # push -> slice -> final verdict, while somebody may ask
        self.waited_s = 0.0  # for others, in all calls so far
        self.ahead = Ahead(self)
        self._outbox = Outbox(port.send_nowait, self.metrics, job)
        self._payloads = Payloads(self, self._outbox)
        self.missing = Missing(self)
        self.reports = Reports(self)
        try:
            self._enroll(rank, timeout_s)
        except Exception as error:
            self._give_up(str(error)[:1000])
            raise

    # ---- joining ----------------------------------------------------------------------------------------------------

    def _enroll(self, rank: int, timeout_s: float) -> None:
        self._nonce = int(self.port.now() * 1e9)
        self.post(CONTROLLER, Enroll(WorkerId(rank), False, self._nonce))
        silent = "the controller has not answered Enroll"
        self.wait(lambda: bool(self.enrolled or self.stopped), timeout_s, lambda: silent)
        if self.enrolled is None:
            raise StoppedError(f"the job has stopped: {self.stopped.reason if self.stopped else ''}")
        self.rank, self.size = int(self.enrolled.rank), self.enrolled.size
        self.incarnation = self.enrolled.incarnation
        self.port.is_known_as(worker_peer(self.rank))
        self.barriers = self.barrier_opened = self.enrolled.barriers
        self.passed = self.enrolled.passed
        self.epoch_ended = self.enrolled.epochs - 1
        self.config = RunConfig.model_validate_json(self.enrolled.config)
        self.metrics.traces = self.config.trace
        self.reports.begin(self.config.lease_s)
        model, codecs = self.config.model(), self.config.codecs()
        cadence = model.cadence
        self.session = Session(
            self.rank,
            self.incarnation,
            model,
            self.config.servers,
            knows_updates(self.config),
            self.config.resend_s,
            self.config.inflight_clocks,
        )
        self.has_session = True
        keeps = cadence.lazy or cadence.local_lr is not None
        self.arrays = Arrays(self.keyspace, cadence, keeps, codecs, encoder_seed(self.config.seed, self.rank))
        self.schemes = Schemes(self.keyspace, self.session, self.arrays.encoder, self.config)
        self.pushing, self.pace = Pushing(self), Pace(self)
        self.perform(self.session.join(self.port.now()))
        self.wait(lambda: self.session.is_joined, self.config.timeout_s, self.missing.silent_shards)

    @property
    def busy_s(self) -> float:
        """Seconds, from any begin, without what was waited for others: for the difference of two."""
        return self.port.now() - self.waited_s

    def adopt(self, optimizer: str) -> None:
        """The servers use the script's own optimizer from now on."""
        self.config = self.config.with_optimizer(optimizer)
        self.session.overlays = knows_updates(self.config)

    def _give_up(self, why: str) -> None:
        if self.enrolled is not None:  # others may wait for this worker already
            self.post(CONTROLLER, Done(self.enrolled.rank, self.enrolled.incarnation, why))

    # ---- push, pull, tick -------------------------------------------------------------------------------------------

    def push_pull_later(
        self, grads: Pushed, weight: float, names: list[str], outputs: dict[str, Array], timeout_s: float
    ) -> PullFuture:
        """One clock. Tick and pull go ahead of the push, so that values come back while the rest still leaves."""
        session, pushing = self.session, self.pushing
        if session.model.cadence.accumulates or session.model.cadence.lazy:
            self.verdicts.pop(pushing.push(grads, weight, True, timeout_s), None)
            self.tick(timeout_s)
            return self.pull_later(names, outputs, timeout_s)
        ids, thin, take = pushing.ready(grads, True, timeout_s)
        entry, parts = session.push(ids, weight, self.port.now(), thin)
        self.perform(session.tick(self.port.now()))
        pull = self._begin_pull(names, outputs, timeout_s)  # no poll before: the push has no frames to send again
        try:
            del self.verdicts[pushing.send(entry, parts, take)]
        except BaseException:
            pull.end()
            raise
        self._outbox.flush()  # servers that no part of the push was for
        return pull

    def pull(self, names: list[str], outputs: dict[str, Array], timeout_s: float) -> None:
        """Fills `outputs`: from the shards what has to travel, the rest from the replica."""
        self.pull_later(names, outputs, timeout_s).now()

    def pull_later(self, names: list[str], outputs: dict[str, Array], timeout_s: float) -> PullFuture:
        """Begins a pull, which somebody has to wait for, or to end."""
        self.poll()
        pull = self._begin_pull(names, outputs, timeout_s)
        self._outbox.flush()
        return pull

    def _begin_pull(self, names: list[str], outputs: dict[str, Array], timeout_s: float) -> PullFuture:
        arrays, ids = self.arrays, np.array(self.keyspace.slice_ids(names), np.int64)
        travelling = self.session.travelling(ids)
        entry = self.ask_for(travelling, outputs) if len(travelling) else None
        if len(travelling) < len(ids):
            for slice_id in np.setdiff1d(ids, travelling, assume_unique=True).tolist():
                arrays.deliver(slice_id, arrays.replica[slice_id], outputs)
        return PullFuture(self, entry, outputs, timeout_s)

    def ask_for(self, slice_ids: Int64, outputs: dict[str, Array], aside: dict[int, Array] | None = None) -> PullEntry:
        """Begins a pull of these slices. aside: takes the values by slice, in place of the replica."""
        now = self.port.now()
        entry, actions = self.session.pull(slice_ids, now)
        self._payloads.sinks[entry.id] = Sink(entry, outputs, aside, now)
        self.perform(actions)
        return entry

    def refresh(self, slice_ids: Int64, timeout_s: float) -> None:
        """Fetches what the servers have of these slices now, beside a replica that stays."""
        PullFuture(self, self.ask_for(slice_ids, {}), {}, timeout_s).now()

    def abandon(self, entry: PullEntry) -> None:
        """Nobody takes what is still to come of this pull."""
        self.session.abandon(entry)
        del self._payloads.sinks[entry.id]

    def tick(self, timeout_s: float) -> None:
        """Finishes the clock; what was accumulated travels with the last clock of its round."""
        self.poll()
        self.has_ticked = True
        travels = self.session.push_travels
        if travels:
            self.session.skip_to_travelling_clock()
        self.ahead.take_in(timeout_s)  # before what is sent: clocks that were passed over count, too
        if travels:
            self.pushing.send_accumulated(timeout_s)
        self.perform(self.session.tick(self.port.now()))
        if travels:
            self.ahead.begin(timeout_s)
        self._outbox.flush()

    def finish(self, timeout_s: float) -> None:
        """Sends what is accumulated in rounds that this worker will not end."""
        while self.arrays.weights:
            self.session.skip_to_travelling_clock()
            self.tick(timeout_s)
        self.ahead.end()

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def wait(
        self,
        done: Callable[[], bool],
        timeout_s: float,
        missing: Callable[[], str],
        ask: Callable[[], None] | None = None,
    ) -> None:
        """Runs the session until `done()`; `ask` is called again and again meanwhile.

        Raises: DeadlineError naming who is missing; StoppedError; PeerError.
        """
        before, asked_at = self.waited_s, self.port.now()
        deadline = asked_at + timeout_s
        ask_at = deadline if ask is None else asked_at + min(self.config.resend_s, timeout_s / 2)
        while not done():
            self._check()
            now = self.port.now()
            if now >= deadline:
                raise DeadlineError(f"after {timeout_s:g} s: {missing()}")
            if ask is not None and now >= ask_at:
                ask()
                ask_at = now + self.config.resend_s
            self._outbox.retry()
            self.reports.report()
            until = min(
                deadline, ask_at, self.reports.next(), self.session.next_timer() if self.has_session else deadline
            )
            self._outbox.flush()
            began = self.port.now()
            item = self.port.recv(min(until, now + 0.01) if self._outbox else until)
            self.waited_s += self.port.now() - began
            if item is not None:
                self._receive(*item)
            if self.has_session:
                self.perform(self.session.on_timer(self.port.now()))
        self._outbox.flush()
        if self.waited_s > before:
            self.metrics.observe("wait", self.waited_s - before)
            if self.metrics.traces:
                self.metrics.span("blocked", asked_at, self.port.now())

    def poll(self) -> None:
        """Takes in what has arrived, without waiting."""
        self.check_process()
        self._outbox.retry()
        while (item := self.port.recv(0.0)) is not None:
            self._receive(*item)
        self._check()
        self.perform(self.session.on_timer(self.port.now()))
        self._outbox.flush()

    def check_process(self) -> None:
        """First of all: another process may not even take a lock, its holder can be a thread that it does not have."""
        if self.pid != os.getpid():
            raise ConfigError(
                "this client was made before a fork: its connections belong to the parent process; "
                "call ps.connect() in the child, or start children with 'spawn'"
            )

    def _check(self) -> None:
        self.check_process()
        if self.has_session and self.session.fenced:
            raise PeerError(self.session.fenced)
        if self.rejected is not None:
            reason, self.rejected = self.rejected, None
            raise ConfigError(reason)
        if self.stopped is not None and self.stopped.failed:
            raise StoppedError(f"the job has stopped: {self.stopped.reason}")

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _receive(self, sender: PeerId, message: Message) -> None:
        self.metrics.count("header_bytes", len(message.header), direction="received")
        try:
            *small, last = wire.decode(message.header, self.job)
        except FrameError as error:
            self.metrics.count("rejected_messages")
            self.rejected = f"{sender}: {error}"
            message.release()
            return
        try:
            for body in small:
                self._take(sender, body, ())
            self._take(sender, last, message.buffers)
        finally:
            message.release()

    def _take(self, sender: PeerId, body: Any, buffers: Sequence[Array]) -> None:
        """One message with its own buffers."""
        kind, _, shard = sender.partition(":")
        if kind == "server" and not isinstance(body, Probe):
            if self.has_session:
                self.perform(self.session.handle(int(shard), body, self.port.now()), body, buffers)
        else:
            self._control(body)

    def _control(self, body: Any) -> None:
        match body:
            case Enrolled() if body.nonce == self._nonce:
                self.enrolled = body
            case Registered():
                self.registration.answers[body.batch] = body
            case BarrierOpen(number):
                self.barrier_opened = max(self.barrier_opened, number)
            case Waiting():
                self.behind = body
            case LrSet(number):
                self.lr_set = max(self.lr_set, number)
            case Probe(number):
                self.probed = max(self.probed, number)
            case EpochEnd(epoch):
                self.epoch_ended = max(self.epoch_ended, epoch)
            case Leased() | Withheld() if body.data in self.leases:
                self.leases[body.data].hear(body)
            case Stop():
                self.stopped = body
            case Rejected() if not self.has_session or body.incarnation in (0, self.incarnation):
                self.rejected = body.reason

    def perform(self, actions: list[Action], body: Any = None, buffers: Sequence[Array] = ()) -> None:
        """Performs the session's actions in order. What has no payload is only posted."""
        for action in actions:
            match action:
                case Send():
                    self._payloads.send(action)
                case Settled(push, slice_id, code, version):
                    self.arrays.settle(push, slice_id, code == Code.LATE, self.pushing.rate)
                    if code == Code.LATE:
                        self.metrics.count("refused_pushes", reason="late")
                    if push in self.verdicts:
                        self.verdicts[push][slice_id] = (code, version)
                case Deliver(pull):
                    self._payloads.deliver(pull, body, buffers)

    def post(self, to: PeerId, body: Any) -> None:
        """A message without payload, at once."""
        self.check_process()
        self._outbox.post(to, body)
        self._outbox.flush()

    def send(self, to: PeerId, message: Message) -> None:
        """Any message."""
        self.check_process()
        self._outbox.hand_over(to, message)
