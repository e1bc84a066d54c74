"""Performs what a Session decides: owns the arrays, sends, waits. Runs in the caller's thread."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ps import factors, kernels, wire
from ps.buffers import Buffer
from ps.compression.auto import AUTO, decided
from ps.compression.choice import RAW, Codecs, Frame
from ps.compression.summary import summary
from ps.config import RunConfig
from ps.consistency import Gather
from ps.errors import ConfigError, DeadlineError, FrameError, PeerError, StoppedError
from ps.factors import Factors
from ps.keyspace import Keyspace, Options, Parameter
from ps.messages import (
    BarrierOpen,
    BatchReady,
    Code,
    Done,
    Enroll,
    Enrolled,
    EpochEnd,
    Log,
    LrSet,
    Probe,
    Progress,
    Register,
    Registered,
    Rejected,
    Spec,
    Stop,
    Waiting,
)
from ps.messages import Values as ValuesMessage
from ps.metrics import Metrics
from ps.optim.sgd import Sgd
from ps.transport.base import Message
from ps.transport.outbox import Outbox
from ps.types import CONTROLLER, Array, Clock, Int64, PeerId, WorkerId, worker_peer
from ps.worker.actions import Action, Deliver, PullEntry, PushEntry, Send, Settled, Thin
from ps.worker.arrays import Arrays
from ps.worker.core import Session
from ps.worker.encoder import Packed
from ps.worker.missing import Missing
from ps.worker.port import Port
from ps.worker.probe import measured
from ps.worker.resends import INIT
from ps.worker.schemes import Schemes

log = logging.getLogger("ps")


class Fetch:
    """A pull under way. Values arrive whenever its worker looks for messages."""

    def __init__(self, worker: Worker, entry: PullEntry | None) -> None:
        self._worker, self._entry = worker, entry

    def lacks(self, ids: Iterable[int]) -> bool:
        """Some of these slices are not there yet."""
        if self._entry is None:
            return False
        return any(not set(missing.tolist()).isdisjoint(ids) for missing, _ in self._entry.missing.values())

    def wait(self, timeout_s: float, ids: Collection[int] | None = None) -> None:
        """Until these slices are there, or all. Raises: as `Worker.wait`."""
        if (entry := self._entry) is not None:
            done = (lambda: not entry.missing) if ids is None else (lambda: not self.lacks(ids))
            self._worker.wait(done, timeout_s, lambda: self._worker.missing.of_pull(entry))

    def end(self) -> None:
        """What is still to come is not taken any more. Twice is once."""
        if self._entry is not None:
            self._worker.end_fetch(self._entry)
            self._entry = None


Verdict = tuple[Code, int]
Take = Callable[[int], Buffer | Packed]  # slice -> its gradient, or the frame where that is known already
LEASE_BEATS = 4  # signs of life per lease, while waiting
REPORT_S = 0.1  # the controller hears of progress and logged values so often


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
        self.registered: dict[int, Registered] = {}
        self.batches = 0
        self.barriers = 0
        self.barrier_opened = 0
        self.behind: Waiting | None = None  # whom a barrier, or a batch without initial values, waits for
        self.lr_asked = self.lr_set = 0  # changes that this worker asked for; the last that is in force
        self.epoch_ended = -1
        self.link = 0.0  # bytes per second to a server; 0: not measured
        self.probed = 0  # the last probe that has come back
        self.verdicts: dict[int, dict[int, Verdict]] = {}  # push -> slice -> final verdict, while somebody may ask
        self._initial: dict[int, Buffer] = {}
        self._sinks: dict[int, Mapping[str, Array]] = {}  # pull -> arrays to fill
        self._outbox = Outbox(port.send_nowait, self.metrics)
        self.missing = Missing(self)
        self._hand: Message | None = None
        self._logs: list[Log] = []  # not yet reported
        self._reported = Clock(0)  # what the controller knows
        self._report_at = 0.0  # not before
        self._beat_at = float("inf")
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
        self.epoch_ended = self.enrolled.epochs - 1
        self.config = RunConfig.model_validate_json(self.enrolled.config)
        self._beat_at = self.port.now() + self.config.lease_s / LEASE_BEATS
        model, codecs = self.config.model(), self.config.codecs()
        cadence = model.cadence
        self.session = Session(
            self.rank,
            self.incarnation,
            model,
            self.config.servers,
            self._knows_updates,
            self.config.resend_s,
            self.config.inflight_clocks,
        )
        self.has_session = True
        keeps = cadence.lazy or cadence.local_lr is not None
        self.arrays = Arrays(self.keyspace, cadence, keeps, codecs, ((self.config.seed or 0) << 20) + self.rank)
        self.schemes = Schemes(self.keyspace, self.session, self.arrays.encoder, self.config)
        self.perform(self.session.join(self.port.now()))
        self.wait(lambda: self.session.is_joined, self.config.timeout_s, self.missing.silent_shards)

    @property
    def _knows_updates(self) -> bool:
        """A push of this worker changes its replica as it changes the values, before they are pulled."""
        rule = self.config.rule()
        plain = type(rule) is Sgd and rule.weight_decay == 0 and self.config.clip_value is None
        return self.config.model().cadence.lazy and plain and self.config.codecs() == Codecs()

    def _give_up(self, why: str) -> None:
        if self.enrolled is not None:  # others may wait for this worker already
            self.post(CONTROLLER, Done(self.enrolled.rank, self.enrolled.incarnation, why))

    def register(
        self, batch: Mapping[str, Array], options: Mapping[str, Options], optimizer: str, timeout_s: float
    ) -> None:
        """One batch of parameters; returns when they are placed and, where it is on us, initialised."""
        parameters = [Parameter.of(name, values, options[name]) for name, values in batch.items()]
        number = self.batches
        specs = tuple(Spec.of(parameter) for parameter in parameters)
        if self.config.compression == AUTO and not self.link:
            self.link = measured(self, timeout_s)
            self.schemes.machine = replace(self.schemes.machine, link_bytes_per_s=self.link)
        self.post(CONTROLLER, Register(WorkerId(self.rank), self.incarnation, number, specs, self.link, optimizer))
        reply = self._registered(number, timeout_s)
        if optimizer and not number:
            self.config = self.config.with_optimizer(optimizer)
            self.session.overlays = self._knows_updates
        if reply.compression:
            parameters = [replace(p, options=decided(self.config, p.options, reply.compression)) for p in parameters]
            self._say(lambda: f"compression {reply.compression}: {reply.why}")
        if any(p.options.push_compression not in (None, "none") for p in parameters):
            self.session.overlays = False
        ids = self.keyspace.extend(parameters)
        shared = isinstance(self.session.model.commit(1), Gather)
        self._say(lambda: summary((self.keyspace.slices[i] for i in ids), self.arrays.codecs, self.size, shared))
        self.batches += 1
        self.session.place(reply.shard_E, np.array([self.keyspace.slices[i].nbytes for i in ids]))
        if reply.initialise:
            self._initialise(ids, batch, timeout_s)
            self.post(CONTROLLER, BatchReady(WorkerId(self.rank), self.incarnation, number))
            self._registered(number, timeout_s)

    def _say(self, what: Callable[[], str]) -> None:
        """One worker tells the user what holds for all; the others need not put it into words."""
        if self.rank == 0 and self.incarnation == 1 and (text := what()):
            print(f"ps: {text}", file=sys.stderr, flush=True)

    def _registered(self, number: int, timeout_s: float) -> Registered:
        """The controller's answer: where the batch lives."""
        self.behind = None
        self.wait(lambda: number in self.registered, timeout_s, lambda: self.missing.at_registration(number))
        return self.registered.pop(number)

    def _initialise(self, ids: Iterable[int], batch: Mapping[str, Array], timeout_s: float) -> None:
        """Sends the initial values; returns when the shards have them."""
        flat = {name: np.ascontiguousarray(values) for name, values in batch.items()}
        self._initial = {i: self.arrays.gather(i, flat, copy=True) for i in ids}
        self.perform(self.session.init(self._initial, self.port.now()))
        self.wait(lambda: self.session.is_initialised, timeout_s, self.missing.silent_shards)
        for buffer in self._initial.values():
            buffer.release()
        self._initial = {}

    # ---- push, pull, tick -------------------------------------------------------------------------------------------

    def push(self, grads: Mapping[str, Array | Factors], weight: float, copy: bool, timeout_s: float) -> int:
        """Encodes and sends (or accumulates) one push; returns its id, or 0 when nothing travelled."""
        cadence = self.session.model.cadence
        if cadence.carries == "delta" and cadence.local_lr == 0:
            raise ConfigError(
                "push: expected local_lr > 0 in the consistency model, at which a worker steps, got 0; or step in the "
                "script: client.step_to(values)"
            )
        ids, thin, take = self._ready_to_push(grads, copy, timeout_s)
        if not cadence.accumulates:
            return self._send_push(*self.session.push(ids, weight, self.port.now(), thin), take)
        arrays, clock = self.arrays, self.session.clock
        arrays.weights[clock] = arrays.weights.get(clock, 0.0) + weight
        for slice_id in ids.tolist():
            buffer = take(slice_id)
            assert isinstance(buffer, Buffer)  # factors do not accumulate
            self._step_replica(slice_id, buffer)
            arrays.accumulate(slice_id, buffer.array, weight)
            buffer.release()
        return 0

    def step_to(self, values: Mapping[str, Array], weight: float, timeout_s: float) -> None:
        """The replica is what the script has made of it in this clock; what has moved travels as that of a push."""
        ids, arrays = self.keyspace.slice_ids(values), self.arrays
        if not self.session.cached_S[ids].all():
            raise ConfigError("step_to: expected values that were pulled before, got some that were not; pull() first")
        self.poll()
        arrays.weights[self.session.clock] = weight
        for slice_id in ids:
            moved = arrays.gather(slice_id, values, copy=True)
            np.copyto(arrays.replica[slice_id], moved.array)
            moved.release()
            arrays.summed.setdefault(slice_id, None)

    def push_pull(
        self,
        grads: Mapping[str, Array | Factors],
        weight: float,
        names: list[str],
        outputs: Mapping[str, Array],
        timeout_s: float,
    ) -> None:
        """One clock. Tick and pull go ahead of the push, so that values come back while the rest still leaves."""
        session = self.session
        if session.model.cadence.accumulates or session.model.cadence.lazy:
            self.verdicts.pop(self.push(grads, weight, True, timeout_s), None)
            self.tick(timeout_s)
            self.pull(names, outputs, timeout_s)
            return
        ids, thin, take = self._ready_to_push(grads, True, timeout_s)
        entry, parts = session.push(ids, weight, self.port.now(), thin)
        self.perform(session.tick(self.port.now()))

        def send() -> None:
            del self.verdicts[self._send_push(entry, parts, take)]

        fetch = self._fetch(names, outputs)  # no poll before: the push has no frames to send again
        try:
            send()
            fetch.wait(timeout_s)
        finally:
            fetch.end()

    def _ready_to_push(
        self, grads: Mapping[str, Array | Factors], copy: bool, timeout_s: float
    ) -> tuple[Int64, Mapping[int, Thin], Take]:
        """The slices of a push, those among them that travel as factors, and what gives the gradient of each."""
        self.poll()
        session, arrays = self.session, self.arrays
        ids = np.array(self.keyspace.slice_ids(grads), np.int64)
        cadence = session.model.cadence
        if not session.cached_S[ids].all() or (cadence.carries == "delta" and len(session.travelling(ids))):
            self.pull(list(grads), {}, timeout_s)  # nothing to measure a push against: no version, no replica yet
        if not cadence.accumulates:
            self.wait(lambda: not session.must_wait(ids), timeout_s, lambda: "push: " + self.missing.verdicts())
        copy |= self.config.clip_norm is not None  # else the caller's arrays are written
        products = {name: grad for name, grad in grads.items() if isinstance(grad, Factors)}
        dense = {name: grad for name, grad in grads.items() if not isinstance(grad, Factors)}
        for name in [name for name in products if self.schemes.owes(name)]:  # known only now that all news is in
            dense[name] = products.pop(name).product()
        thin, take_thin = self._thin(products)
        if self.config.clip_norm is None:
            clock, encodes = session.clock, arrays.encoder.encodes
            return (
                ids,
                thin,
                lambda i: take_thin(i) if i in thin else arrays.gather(i, dense, copy and not encodes(i, clock)),
            )
        fresh = {i: arrays.gather(i, dense, copy) for i in ids.tolist()}
        arrays.clip(fresh.values(), self.config.clip_norm)
        return ids, thin, fresh.__getitem__

    def _thin(self, grads: dict[str, Factors]) -> tuple[Mapping[int, Thin], Callable[[int], Packed]]:
        """What travels of parameters that are pushed as factors, and what gives the frame of each of their slices."""
        shared = {name: factors.shared(grad) for name, grad in grads.items()}
        owner = {slice_id: name for name in grads for slice_id in self.keyspace.slices_of[name]}

        def take(slice_id: int) -> Packed:
            name = owner[slice_id]
            return self.arrays.encoder.pack_factors(slice_id, grads[name], shared[name])

        return self.schemes.thin(grads), take

    @property
    def _rate(self) -> float:
        """The rate at which a gradient of this worker enters the values."""
        return self.session.lr * self.session.rate

    def _step_replica(self, slice_id: int, frame: Buffer) -> None:
        if self.arrays.keeps_replica:
            local_lr = self.session.model.cadence.local_lr
            self.arrays.step(slice_id, frame.array, self._rate if local_lr is None else local_lr)

    def _send_push(self, entry: PushEntry, parts: list[Action], take: Take) -> int:
        """Sends the parts as soon as each is there. What an earlier incarnation has pushed is in none."""
        self.verdicts[entry.id] = {}
        for part in parts:
            assert isinstance(part, Send)
            for slice_id in part.body.slice_E.tolist():
                taken = take(slice_id)
                if isinstance(taken, Buffer):
                    if not self.session.model.cadence.accumulates:
                        self._step_replica(slice_id, taken)
                    taken = self.arrays.encoder.pack(slice_id, taken, entry.clock, self._rate)
                self.arrays.frames[entry.id, slice_id] = taken
            self.perform([part])
        return entry.id

    def _send_accumulated(self, timeout_s: float) -> None:
        """Sends what was accumulated since the last time. What has overflowed is dropped whole, like a bad gradient."""
        arrays, session = self.arrays, self.session
        if not arrays.weights:
            return
        weight = math.fsum(arrays.weights.values()) / len(arrays.weights)  # of one clock: the rate is per clock
        arrays.weights.clear()
        fresh = arrays.collect(weight)
        if not all(kernels.all_finite(buffer.array) for buffer in fresh.values()):
            self.metrics.count("nonfinite_pushes")
            log.warning("worker %d: accumulated push at clock %d dropped: overflow", self.rank, session.clock)
            for buffer in fresh.values():
                buffer.release()
            return
        ids = np.array(sorted(fresh), np.int64)
        self.wait(lambda: not session.must_wait(ids), timeout_s, lambda: "tick: " + self.missing.verdicts())
        push = self._send_push(*session.push(ids, weight, self.port.now()), fresh.__getitem__)
        del self.verdicts[push]  # nobody has a future for it

    def pull(self, names: list[str], outputs: Mapping[str, Array], timeout_s: float) -> None:
        """Fills `outputs`: from the shards what has to travel, the rest from the replica."""
        fetch = self.fetch(names, outputs)
        try:
            fetch.wait(timeout_s)
        finally:
            fetch.end()

    def fetch(self, names: list[str], outputs: Mapping[str, Array]) -> Fetch:
        """Begins a pull, which somebody has to `wait` for, and to `end`."""
        self.poll()
        return self._fetch(names, outputs)

    def _fetch(self, names: list[str], outputs: Mapping[str, Array]) -> Fetch:
        session, arrays = self.session, self.arrays
        ids = np.array(self.keyspace.slice_ids(names), np.int64)
        travelling = session.travelling(ids)
        entry: PullEntry | None = None
        if len(travelling):
            entry, actions = session.pull(travelling, self.port.now())
            self._sinks[entry.id] = outputs
            self.perform(actions)
        if len(travelling) < len(ids):
            for slice_id in np.setdiff1d(ids, travelling, assume_unique=True).tolist():
                arrays.deliver(slice_id, arrays.replica[slice_id], outputs)
        return Fetch(self, entry)

    def end_fetch(self, entry: PullEntry) -> None:
        """For `Fetch.end` alone."""
        self.session.abandon(entry)
        del self._sinks[entry.id]

    def tick(self, timeout_s: float) -> None:
        """Finishes the clock; what was accumulated travels with the last clock of its round."""
        self.poll()
        if self.session.push_travels:
            self._send_accumulated(timeout_s)
        self.perform(self.session.tick(self.port.now()))

    def finish(self, timeout_s: float) -> None:
        """Sends what is accumulated in a round that this worker will not end."""
        if self.arrays.weights:
            self.session.skip_to_travelling_clock()
            self.tick(timeout_s)

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
        deadline = self.port.now() + timeout_s
        ask_at = deadline if ask is None else self.port.now() + min(self.config.resend_s, timeout_s / 2)
        while not done():
            self._check()
            now = self.port.now()
            if now >= deadline:
                raise DeadlineError(f"after {timeout_s:g} s: {missing()}")
            if ask is not None and now >= ask_at:
                ask()
                ask_at = now + self.config.resend_s
            self._outbox.retry()
            self.report()
            until = min(
                deadline, ask_at, self._next_report(), self.session.next_timer() if self.has_session else deadline
            )
            item = self.port.recv(min(until, now + 0.01) if self._outbox else until)
            if item is not None:
                self._receive(*item)
            if self.has_session:
                self.perform(self.session.on_timer(self.port.now()))

    def log(self, names: tuple[str, ...], values: tuple[float, ...]) -> None:
        """Takes note of what the script logs; it travels with the next report."""
        self._logs.append(Log(WorkerId(self.rank), self.incarnation, self.session.clock, names, values))
        self.report()

    def report(self, now: bool = False) -> None:
        """Tells the controller of progress and logged values, at most every REPORT_S.

        Without any it hears a sign of life: who waits for others is not lost, its lease runs on.
        """
        time = self.port.now()
        if now or time >= self._next_report():
            self._report_at, self._beat_at = time + REPORT_S, time + self.config.lease_s / LEASE_BEATS
            self._reported = self.session.clock
            for entry in self._logs:
                self.post(CONTROLLER, entry)
            self._logs.clear()
            self.post(CONTROLLER, Progress(WorkerId(self.rank), self.incarnation, self.session.clock))

    def _next_report(self) -> float:
        news = self.has_session and (bool(self._logs) or self.session.clock > self._reported)
        return min(self._beat_at, self._report_at) if news else self._beat_at

    def poll(self) -> None:
        """Takes in what has arrived, without waiting."""
        self.check_process()
        self._outbox.retry()
        while (item := self.port.recv(0.0)) is not None:
            self._receive(*item)
        self.perform(self.session.on_timer(self.port.now()))
        self._check()

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
            body = wire.decode(message.header, self.job)
        except FrameError as error:
            self.metrics.count("rejected_messages")
            self.rejected = f"{sender}: {error}"
            message.release()
            return
        self._hand = message
        kind, _, shard = sender.partition(":")
        try:
            if kind == "server" and not isinstance(body, Probe):
                if self.has_session:
                    self.perform(self.session.handle(int(shard), body, self.port.now()), body)
            else:
                self._control(body)
        finally:
            self._hand = None
            message.release()

    def _control(self, body: Any) -> None:
        match body:
            case Enrolled() if body.nonce == self._nonce:
                self.enrolled = body
            case Registered():
                self.registered[body.batch] = body
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
            case Stop():
                self.stopped = body
            case Rejected() if not self.has_session or body.incarnation in (0, self.incarnation):
                self.rejected = body.reason

    def perform(self, actions: list[Action], body: Any = None) -> None:
        """Performs the session's actions in order."""
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Settled(push, slice_id, code, version):
                    self.arrays.settle(push, slice_id, code == Code.LATE, self._rate)
                    if code == Code.LATE:
                        self.metrics.count("refused_pushes", reason="late")
                    if push in self.verdicts:
                        self.verdicts[push][slice_id] = (code, version)
                case Deliver(pull):
                    self._deliver(pull, body)

    def _deliver(self, pull: int, body: ValuesMessage) -> None:
        assert self._hand is not None
        self.metrics.count("pull_messages", direction="received")
        marks = body.mark_K.tolist() or [0] * len(body.slice_E)
        codecs = body.codec_K.tolist() or [RAW] * len(body.slice_E)
        rows = zip(body.slice_E.tolist(), marks, codecs, self._hand.buffers, strict=True)
        for slice_id, mark, codec, buffer in rows:
            self.metrics.count("pull_bytes", buffer.nbytes, direction="received")
            if mark:
                try:
                    values_N = self.arrays.look(slice_id, codec, buffer)
                except FrameError:
                    self.session.mark_S[body.slice_E] = 0  # the next pull brings them whole
                    raise
            else:
                values_N = buffer.view(self.keyspace.slices[slice_id].dtype)
            self.arrays.deliver(slice_id, values_N, self._sinks[pull])
            if self.arrays.keeps_replica:
                self.arrays.store(slice_id, values_N)

    def _send(self, send: Send) -> None:
        body = send.body
        if send.push >= 0:
            packed = [self.arrays.frames[send.push, s] for s in body.slice_E.tolist()]
            held = [one.buffer.hold() for one in packed]
            frames = [one.frame for one in packed]
            buffers = [frame.data for frame in frames]
            if any(frame.codec != RAW for frame in frames):
                codec_K = np.array([frame.codec for frame in frames], np.uint8)
                shared_K, more = _shared(frames)
                body = replace(body, codec_K=codec_K, shared_K=shared_K)
                buffers += more
            self.metrics.count("push_messages", direction="sent")
            self.metrics.count("push_bytes", sum(data.nbytes for data in buffers), direction="sent")
        elif send.init:
            held = [self._initial[s].hold() for s in body.slice_E.tolist()]
            buffers = [one.array for one in held]
        else:
            self.post(send.to, body)
            return

        key = (send.push if send.push >= 0 else INIT, int(send.to.partition(":")[2]))
        sending, counts = self.session.resends.sending, self.port.releases_when_sent
        if counts:
            sending.begin(key)

        def release() -> None:  # by any thread
            if counts:
                sending.end(key)
            for buffer in held:
                buffer.release()

        self._outbox.send(send.to, Message(wire.encode(body, self.job), buffers, release))

    def post(self, to: PeerId, body: Any) -> None:
        """A message without payload."""
        self.send(to, Message(wire.encode(body, self.job)))

    def send(self, to: PeerId, message: Message) -> None:
        """Any message."""
        self.check_process()
        self._outbox.send(to, message)


def _shared(frames: list[Frame]) -> tuple[Int64, list[Array]]:
    """The buffers that frames share, each once, and for every frame the number of its own, from 1; 0: none."""
    shared = {id(frame.shared): frame.shared for frame in frames if frame.shared is not None}
    number = {key: place for place, key in enumerate(shared, 1)}
    return np.array([number.get(id(frame.shared), 0) for frame in frames]), list(shared.values())
