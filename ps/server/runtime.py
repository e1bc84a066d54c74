"""Performs what a Shard decides: owns frames and values, checks payloads, sends messages. One thread runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ps import kernels, wire
from ps.buffers import UnderWay
from ps.compression.choice import RAW, Codecs, Frame
from ps.errors import Error, FrameError, PeerError
from ps.keyspace import Slice
from ps.messages import Init, Probe, Pull, Push, Read, Rejected, Spec
from ps.messages import Values as ValuesMessage
from ps.metrics import Metrics
from ps.record.entries import Registered
from ps.record.writer import Recorder
from ps.server.actions import Action, Answer, Apply, Drop, DropUnfinished, Forget, Keep, Replicate, Send, Store, Waited
from ps.server.core import Shard
from ps.server.follower import Follower
from ps.server.ledger import Added, Adopted, Commit, Initialised, Left, Record, Sent
from ps.server.rounds import Rounds
from ps.server.values import Values, checksum
from ps.server.views import OwnViews, Reply
from ps.transport.base import Message
from ps.transport.outbox import Outbox
from ps.types import Array, Int64, PeerId, worker_peer
from ps.wire import LEAST_BYTES, PART_BYTES


class Held:
    """A received message whose frames are released one by one."""

    __slots__ = ("left", "message")

    def __init__(self, message: Message, frames: int) -> None:
        self.message, self.left = message, frames

    def release(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.message.release()


class Server:
    """One server process's shard with its arrays. The driver calls `receive`, and `finish` for deferred applies."""

    def __init__(
        self,
        shard: Shard,
        job: bytes,
        send: Callable[[PeerId, Message], None],
        metrics: Metrics,
        follower: Follower | None = None,
        defer: Callable[[list[Commit]], None] | None = None,
        watch: Callable[[Record], None] | None = None,
        clip_value: float | None = None,
        codecs: Codecs = Codecs(),
        clock: Callable[[], float] = time.monotonic,
        recorder: Recorder | None = None,
    ) -> None:
        self.shard, self.job, self.metrics, self.codecs = shard, job, metrics, codecs
        gathers = isinstance(shard.engine, Rounds)
        self.values = Values(shard.optimizer, gathers, shard.gate.keep_versions, clip_value, codecs)
        self.own_views = None if gathers else OwnViews(codecs, self.values.pool)
        self.follower, self.recorder = follower, recorder
        self._outbox = Outbox(send, metrics, job)
        self._defer, self._watch, self._clock = defer, watch, clock
        self._frames: dict[tuple[int, int, int], tuple[Frame, Held]] = {}  # (worker, slice, number)
        self._payloads: dict[tuple[int, int], list[Array]] = {}  # (slice, version): for the follower
        self._applied: dict[tuple[int, int], list[tuple[Frame, Held]]] = {}  # (slice, version): for the recording
        self._registered = 0  # parameters that the recording knows
        self._answering = UnderWay()  # (to, id)
        self._now = 0.0

    def receive(self, sender: PeerId, message: Message, now: float) -> None:
        """What came under one header from a peer. Bad bytes cost the peer an error and never this server."""
        self._now = now
        self._outbox.retry()
        self.metrics.count("header_bytes", len(message.header), direction="received")
        try:
            bodies = wire.decode(message.header, self.job)
        except FrameError as error:
            self._refuse(sender, error, wire.claimed_job(message.header))
            message.release()
            return
        more = len(bodies) > 1
        for body in bodies[:-1]:
            self._take(sender, body, Held(Message(b""), 1), more)
        self._take(sender, bodies[-1], Held(message, 1), more)
        if more:
            self._perform(self.shard.go_on(now))
        self._outbox.flush()

    def _take(self, sender: PeerId, body: Any, held: Held, more: bool) -> None:
        """One message; the buffers of `held` are its own."""
        if isinstance(body, Probe):
            echo = Message(wire.encode(self.job, body), held.message.buffers, held.release)
            self._outbox.hand_over(sender, echo, keep=False)
            return
        try:
            self._perform(self._decide(sender, body, held.message, more), held, body)
        except PeerError as error:
            self._refuse(sender, error, self.job)
        held.release()

    def finish(self, commits: list[Commit], now: float) -> None:
        """Computes deferred commits and lets the shard go on."""
        self._now = now
        self._apply(commits)
        self._outbox.flush()

    def close(self, killed: bool = False) -> None:
        """Ends the recording, if there is one: with a checksum, or as what is left of a killed server."""
        if self.recorder is None:
            return
        if killed:
            self.recorder.close()
        else:
            self.recorder.end(checksum(self.values.parts()), self._now)

    @property
    def has_unsent(self) -> bool:
        """Somebody reads slowly: `retry_unsent` should be called soon."""
        return bool(self._outbox)

    def retry_unsent(self) -> None:
        """Sends again what a slow reader had no room for."""
        self._outbox.retry()

    # ---- deciding ---------------------------------------------------------------------------------------------------

    def _decide(self, sender: PeerId, body: Any, message: Message, more: bool) -> list[Action]:
        match body:
            case Push():
                if (why := self._bad_push(body, message.buffers)) is not None:
                    self.metrics.count("rejected_messages")
                    return self.shard.on_bad_payload(body, why, self._now, more)
                self.metrics.count("push_messages", direction="received")
                self.metrics.count("push_bytes", sum(b.nbytes for b in message.buffers), direction="received")
            case Init():
                if (why := self._bad_values(body.slice_E, message.buffers)) is not None:
                    raise PeerError(why)
                return self.shard.on_init(body.worker, body.slice_E, self._now, more)
            case Read():
                return [] if (sender, body.id) in self._answering else self.shard.read(sender, body, self._now, more)
            case Pull() if not body.late and (worker_peer(body.worker), body.id) in self._answering:
                return []  # asked again over a slow link: the answer is on its way
        return self.shard.handle(body, self._now, more)

    def _bad_values(self, slice_E: Any, buffers: Sequence[Array]) -> str | None:
        """Why these buffers cannot be values of these slices; None when they can."""
        if len(buffers) != len(slice_E):
            return f"expected {len(slice_E)} buffers, got {len(buffers)}"
        slices = self.shard.keyspace.slices
        for slice_id, buffer in zip(slice_E.tolist(), buffers, strict=True):
            if slice_id >= len(slices):
                return f"slice {slice_id}: expected one below {len(slices)}"
            if buffer.nbytes != slices[slice_id].nbytes:
                name, nbytes = self.shard.keyspace.describe(slice_id), slices[slice_id].nbytes
                return f"{name}: expected {nbytes} bytes, got {buffer.nbytes}"
        return None

    def _bad_push(self, push: Push, buffers: Sequence[Array]) -> str | None:
        """Why these buffers cannot be frames of this push; None when they can."""
        shared = sorted(set(push.shared_K.tolist()) - {0})
        if shared != list(range(1, len(shared) + 1)):
            return f"shared_K: expected 1 to {len(shared)}, each at least once, got {shared[:8]}"
        if len(buffers) != len(push.slice_E) + len(shared):
            return f"expected {len(push.slice_E) + len(shared)} buffers, got {len(buffers)}"
        for place, slice_id in enumerate(push.slice_E.tolist()):
            if slice_id >= len(self.shard.keyspace.slices):
                return f"slice {slice_id}: expected one below {len(self.shard.keyspace.slices)}"
            if (why := self._bad_frame(self.shard.keyspace.slices[slice_id], _frame(push, place, buffers))) is not None:
                return f"{self.shard.keyspace.describe(slice_id)}: {why}"
        return None

    def _bad_frame(self, item: Slice, frame: Frame) -> str | None:
        if not item.trainable:
            return "expected no push, it is frozen or an integer buffer"
        if frame.codec != RAW:
            try:
                self.codecs.check_push(item, frame)
            except FrameError as error:
                return str(error)
        elif frame.shared is not None:
            return "shared buffer: expected none with a raw slice, got one"
        elif frame.data.nbytes != item.nbytes:
            return f"expected {item.nbytes} bytes, got {frame.data.nbytes}"
        elif not kernels.all_finite(frame.data.view(item.dtype)):
            self.metrics.count("nonfinite_pushes")
            return "expected finite numbers, got NaN or Inf"
        return None

    # ---- performing -------------------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action], held: Held | None = None, body: Any = None) -> None:
        for action in actions:
            match action:
                case Send(to, answer):
                    self._outbox.post(to, answer)
                case Keep():
                    assert held is not None
                    self._keep(action, held, body)
                case Store(places, slices):
                    assert held is not None
                    for place, index in zip(places, slices, strict=True):
                        item = self.values.slices[index]
                        self.values.store(index, held.message.buffers[place].view(item.dtype))
                case Apply(commits):
                    if self._defer is None:
                        self._apply(commits)
                    else:
                        self._defer(commits)
                case Answer():
                    self._answer(action)
                case Replicate(record):
                    self._replicate(record)
                case Drop(keys):
                    for key in keys:
                        self._let_go(key)
                case DropUnfinished(worker, kept_S):
                    for key in [k for k in self._frames if k[0] == worker and k[2] > kept_S[k[1]]]:
                        self._let_go(key)
                case Forget(version_S):
                    self.values.forget(version_S)
                case Waited(worker, waited_for, seconds):
                    self.metrics.observe("gate_wait", seconds, worker=worker, waited_for=waited_for)

    def _keep(self, keep: Keep, held: Held, push: Push) -> None:
        for place, index, seq in zip(keep.place_E, keep.slice_E, keep.seq_E, strict=True):
            held.left += 1
            frame = _frame(push, place, held.message.buffers)
            if frame.codec == RAW:
                frame = Frame(RAW, frame.data.view(self.values.slices[index].dtype))
            self._frames[keep.worker, index, seq] = (frame, held)

    def _let_go(self, key: tuple[int, int, int]) -> None:
        if (frame := self._frames.pop(key, None)) is not None:
            frame[1].release()

    def _apply(self, commits: list[Commit]) -> None:
        for commit in commits:
            keys = [(push.worker, commit.slice, push.seq) for push in commit.contributions]
            taken = [self._frames[key] for key in keys]
            began = self._clock() if self.metrics.traces else 0.0
            grad_N = self.values.commit(commit, [frame for frame, _ in taken])
            if self.metrics.traces:
                nbytes = self.values.slices[commit.slice].nbytes
                self.metrics.span("apply", began, self._clock(), slice=commit.slice, bytes=nbytes)
            if self.recorder is not None:
                self._applied[commit.slice, commit.version] = taken
                for _, held in taken:
                    held.left += 1
            if self.follower is not None:
                self._payloads[commit.slice, commit.version] = [] if grad_N is None else [grad_N.copy()]
            if keys:
                self.metrics.count("applies")
                self.metrics.observe("staleness", commit.staleness)
            else:
                self.metrics.count("empty_commits")
            for key in keys:
                self._let_go(key)
        self._perform(self.shard.on_applied(commits, self._now))

    def _answer(self, answer: Answer) -> None:
        """Sends the values, in parts where they are large."""
        first = nbytes = 0
        replies: list[Reply] = []
        for place in range(len(answer.slices)):
            replies.append(self._reply(answer, place))
            nbytes += max(replies[-1].frame.data.nbytes, LEAST_BYTES)
            if nbytes >= PART_BYTES or place + 1 == len(answer.slices):
                self._answer_part(answer, answer.slices[first : place + 1], replies)
                first, nbytes, replies = place + 1, 0, []

    def _reply(self, answer: Answer, place: int) -> Reply:
        columns = (answer.slices, answer.version_E, answer.mark_E, answer.min_clock_E)
        index, version, mark, min_clock = (int(column[place]) for column in columns)
        if self.own_views is not None and answer.clock >= 0:
            item, now = self.values.slices[index], self.values.current[index]
            head = (answer.to, answer.id, index, item, now, answer.clock, mark)
            if (reply := self.own_views.reply(*head, version, min_clock)) is not None:
                return reply
        if answer.clock < 0:
            held = self.values.current[index].hold()
            return Reply(Frame(RAW, held.array), held, 0, version, min_clock)
        return self.values.reply(index, version, int(self.shard.ledger.version_S[index]), mark, min_clock)

    def _answer_part(self, answer: Answer, index_E: Int64, replies: list[Reply]) -> None:
        version_E, min_clock_E = (np.array([getattr(r, name) for r in replies]) for name in ("version", "min_clock"))
        body = ValuesMessage(
            answer.id, self.shard.ledger.ids_S[index_E], version_E, min_clock_E, answer.lr, answer.rate
        )
        if any(reply.mark for reply in replies):
            codec_K = np.array([reply.frame.codec for reply in replies], np.uint8)
            body = replace(body, codec_K=codec_K, mark_K=np.array([reply.mark for reply in replies]))
        buffers = [reply.frame.data for reply in replies]
        self.metrics.count("pull_messages", direction="sent")
        self.metrics.count("pull_bytes", sum(b.nbytes for b in buffers), direction="sent")

        key = (answer.to, answer.id)
        self._answering.begin(key)

        def release() -> None:  # by any thread
            self._answering.end(key)
            for reply in replies:
                if reply.held is not None:
                    reply.held.release()

        self._outbox.send(answer.to, body, buffers, release)

    def _replicate(self, record: Record) -> None:
        if self._watch is not None:
            self._watch(record)
        if self.recorder is not None:
            self._record(self.recorder, record)
        if isinstance(record, Added):
            new = [self.shard.keyspace.slices[int(i)] for i in record.ids]
            self.values.add(new)
            self.metrics.gauge("slices", sum(item.trainable for item in self.values.slices))
            if self.follower is not None:
                self.follower.feed(record, (), new)
            return
        if isinstance(record, Adopted):
            self.values.optimizer = self.shard.optimizer
        if isinstance(record, Sent):
            for index in record.slices:
                self.values.remember(record.worker, int(index))
        if isinstance(record, Left) and self.own_views is not None:
            self.own_views.forget(worker_peer(record.worker))
        if self.follower is None:
            return
        payload: list[Array] = []
        if isinstance(record, Commit):
            payload = self._payloads.pop((record.slice, record.version))
        elif isinstance(record, Initialised):
            payload = [self.values.current[int(index)].array for index in record.slices]
        self.follower.feed(record, payload)

    def _record(self, recorder: Recorder, record: Record) -> None:
        """Hands over the record, and what it came about by: frames as they were sent, initial values, parameters."""
        frames: list[Frame] = []
        releases: list[Callable[[], None]] = []
        if isinstance(record, Added):
            new = self.shard.keyspace.parameters[self._registered :]
            self._registered += len(new)
            recorder.add(Registered(tuple(Spec.of(parameter) for parameter in new)), self._now)
        elif isinstance(record, Commit):
            taken = self._applied.pop((record.slice, record.version))
            frames, releases = [frame for frame, _ in taken], [held.release for _, held in taken]
        elif isinstance(record, Initialised):
            buffers = [self.values.current[int(index)].hold() for index in record.slices]
            frames, releases = [Frame(RAW, buffer.array) for buffer in buffers], [buffer.release for buffer in buffers]
        recorder.add(record, self._now, frames, releases)

    # ---- sending ----------------------------------------------------------------------------------------------------

    def _refuse(self, sender: PeerId, error: Error, job: bytes) -> None:
        self.metrics.count("rejected_messages")
        body = Rejected(0, f"server:{self.shard.shard} refused: {error}", fenced=False)
        self._outbox.hand_over(sender, Message(wire.encode(job, body)), keep=False)


def _frame(push: Push, place: int, buffers: Sequence[Array]) -> Frame:
    """What the push brings for its slice at `place`, as it came."""
    codec = int(push.codec_K[place]) if len(push.codec_K) else RAW
    shared = int(push.shared_K[place]) if len(push.shared_K) else 0
    return Frame(codec, buffers[place], buffers[len(push.slice_E) + shared - 1] if shared else None)
