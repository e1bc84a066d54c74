"""Compressed pulls: what the workers hold of each slice, and the frames that take it to the next values.

A *view* is the copy that a worker computes on. Its error is not lost: the next frame encodes w - view, whatever that
has become (difference coding). Both sides add the same decoded frame, so their views stay equal bit for bit.

Each view has a mark, from 1. A pull says which mark its worker holds; the answer is a frame from mark - 1 to mark, or
the view whole. Models that gather have one view for all, moved by each commit: shard state, the same on a follower.
Models that apply on arrival have one view per worker, moved by its pulls; it is soft: without it, one dense pull.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ps.buffers import Buffer, Pool
from ps.compression.base import Codec, Memory
from ps.compression.choice import RAW, SAME, Codecs, Frame
from ps.keyspace import Slice
from ps.types import Float, PeerId

EMPTY = Frame(SAME, np.empty(0, np.uint8))


class Reply(NamedTuple):
    """One slice of an answer. The buffers are held for who sends it."""

    frame: Frame
    held: Buffer | None
    mark: int
    version: int
    min_clock: int


class View:
    """One copy of one slice, and the last frame that moved it."""

    def __init__(self, codec: Codec, item: Slice, pool: Pool, values: Buffer) -> None:
        """Takes over one hold of `values`."""
        self.codec, self.pool, self.values = codec, pool, values
        self.memory = Memory(item.rows, item.columns, None)
        self.frame: Buffer | None = None  # None: the last move was a jump
        self.frame_bytes = 0

    def jump(self, values: Buffer) -> None:
        """From now on it is these values; takes over one hold."""
        self._drop_frame()
        self.values.release()
        self.values = values

    def move(self, w_N: Float) -> None:
        """Goes towards the values `w_N` as far as one frame can."""
        self._drop_frame()
        if self.values.holders > 1:
            self._copy(self.values.array)
        frame = self.pool.take("uint8", self.codec.bytes_max(self.memory.rows, self.memory.columns))
        length = self.codec.move(w_N, self.values.array, self.memory, frame.array, self.pool)
        if length is None or length >= w_N.nbytes:  # training has diverged, which no codec can say; or no gain
            frame.release()
            self._copy(w_N)
            return
        self.frame, self.frame_bytes = frame, length

    def last_frame(self) -> tuple[Frame, Buffer]:
        """What the last move adds, or the whole view after a jump; held once more."""
        if self.frame is None:
            held = self.values.hold()
            return Frame(RAW, held.array), held
        return Frame(self.codec.ID, self.frame.array[: self.frame_bytes]), self.frame.hold()

    def release(self) -> None:
        """Nobody needs it any more."""
        self._drop_frame()
        self.values.release()

    def _copy(self, values_N: Float) -> None:
        copied = self.pool.copy(values_N)
        self.values.release()
        self.values = copied

    def _drop_frame(self) -> None:
        if self.frame is not None:
            self.frame.release()
            self.frame = None


@dataclass(slots=True)
class OwnView:
    """The view of one worker, and the last answer to it: asked again, it is given again."""

    view: View
    mark: int
    id: int
    version: int
    min_clock: int


class OwnViews:
    """One view per worker and slice, for models that apply on arrival."""

    def __init__(self, codecs: Codecs, pool: Pool) -> None:
        self.codecs, self.pool = codecs, pool
        self.views: dict[PeerId, dict[int, OwnView]] = {}

    def reply(
        self, to: PeerId, id: int, index: int, item: Slice, current: Buffer, clock: int, mark: int,
        version: int, min_clock: int,
    ) -> Reply | None:  # fmt: skip
        """What the pull `id` of this worker, made at `clock` with `mark` in hand, is answered; None: plain values."""
        codec = self.codecs.of_pull(item)
        if codec is None:
            return None
        mine = self.views.setdefault(to, {})
        own = mine.get(index)
        if own is None:
            view = View(codec, item, self.pool, current.hold())
            own = mine[index] = OwnView(view, 1, id, version, min_clock)
        elif own.id != id:  # else its answer was lost
            if mark == own.mark and clock >= codec.warmup:
                own.view.move(current.array)
            else:
                own.view.jump(current.hold())
            own.mark, own.id, own.version, own.min_clock = own.mark + 1, id, version, min_clock
        frame, held = own.view.last_frame()
        return Reply(frame, held, own.mark, own.version, own.min_clock)

    def forget(self, worker: PeerId) -> None:
        """The worker is gone."""
        for own in self.views.pop(worker, {}).values():
            own.view.release()
