"""Arrays of a worker in and out of messages: frames and initial values that leave, values that arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ps.compression.choice import RAW, Frame
from ps.errors import FrameError
from ps.messages import Values
from ps.transport.outbox import Outbox
from ps.types import Array, Int64
from ps.worker.actions import PullEntry, Send
from ps.worker.resends import INIT

if TYPE_CHECKING:
    from ps.worker.runtime import Worker


class Sink(NamedTuple):
    """Where the values of a pull go."""

    entry: PullEntry
    outputs: Mapping[str, Array]  # by parameter
    aside: dict[int, Array] | None  # by slice, in place of the replica
    began: float


class Payloads:
    """What travels beside the headers of one worker. sinks: of each pull under way."""

    def __init__(self, worker: Worker, outbox: Outbox) -> None:
        self._worker, self._outbox = worker, outbox
        self.sinks: dict[int, Sink] = {}

    def deliver(self, pull: int, body: Values, buffers: Sequence[Array]) -> None:
        """The values of one message go where their pull wants them.

        Raises: FrameError; then they are asked for again, whole.
        """
        worker = self._worker
        entry, outputs, aside, began = self.sinks[pull]
        worker.metrics.count("pull_messages", direction="received")
        marks = body.mark_K.tolist() or [0] * len(body.slice_E)
        codecs = body.codec_K.tolist() or [RAW] * len(body.slice_E)
        rows = zip(body.slice_E.tolist(), marks, codecs, buffers, strict=True)
        stores = aside is None and worker.arrays.keeps_replica
        for slice_id, mark, codec, buffer in rows:
            worker.metrics.count("pull_bytes", buffer.nbytes, direction="received")
            if mark:
                try:
                    values_N = worker.arrays.look(slice_id, codec, buffer)
                except FrameError:
                    worker.session.take_back(entry, body.slice_E, worker.port.now())
                    raise
            else:
                values_N = buffer.view(worker.keyspace.slices[slice_id].dtype)
            if aside is not None:
                aside[slice_id] = np.array(values_N)
            if stores:
                worker.arrays.store(slice_id, values_N)
            worker.arrays.deliver(slice_id, worker.arrays.replica[slice_id] if stores else values_N, outputs)
        if worker.metrics.traces:
            worker.metrics.span("pull", began, worker.port.now(), bytes=sum(buffer.nbytes for buffer in buffers))

    def send(self, send: Send) -> None:
        """With its frames or initial values, which are held until the transport has let go of them."""
        worker, body = self._worker, send.body
        if send.push >= 0:
            packed = [worker.arrays.frames[send.push, s] for s in body.slice_E.tolist()]
            held = [one.buffer.hold() for one in packed]
            frames = [one.frame for one in packed]
            buffers = [frame.data for frame in frames]
            if any(frame.codec != RAW for frame in frames):
                codec_K = np.array([frame.codec for frame in frames], np.uint8)
                shared_K, more = _shared(frames)
                body = replace(body, codec_K=codec_K, shared_K=shared_K)
                buffers += more
            worker.metrics.count("push_messages", direction="sent")
            worker.metrics.count("push_bytes", sum(data.nbytes for data in buffers), direction="sent")
        elif send.init:
            held = [worker.registration.initial[s].hold() for s in body.slice_E.tolist()]
            buffers = [one.array for one in held]
        else:
            self._outbox.post(send.to, body)
            return

        key = (send.push if send.push >= 0 else INIT, int(send.to.partition(":")[2]))
        sending, counts = worker.session.resends.sending, worker.port.releases_when_sent
        began = worker.port.now()
        if counts:
            sending.begin(key)

        def release() -> None:  # by any thread
            if counts:
                sending.end(key)
            if worker.metrics.traces:
                nbytes = sum(data.nbytes for data in buffers)
                worker.metrics.span("wire", began, worker.port.now(), to=send.to, bytes=nbytes)
            for buffer in held:
                buffer.release()

        self._outbox.send(send.to, body, buffers, release)


def _shared(frames: list[Frame]) -> tuple[Int64, list[Array]]:
    """The buffers that frames share, each once, and for every frame the number of its own, from 1; 0: none."""
    shared = {id(frame.shared): frame.shared for frame in frames if frame.shared is not None}
    number = {key: place for place, key in enumerate(shared, 1)}
    return np.array([number.get(id(frame.shared), 0) for frame in frames]), list(shared.values())
