"""The arrays of one shard: values, optimizer state, kept versions; immutable while anybody holds them.

A commit writes in place only if nobody holds the slice, else into a pool buffer; the old one returns to the pool when
its last holder (reply, kept version, page, checkpoint) lets go. Buffers stay mapped: fresh pages cost ten times a copy.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ps.buffers import Buffer, Pool
from ps.compression.choice import RAW, Codecs, Frame
from ps.keyspace import Slice
from ps.optim.base import Optimizer, Step
from ps.server.ledger import Commit
from ps.server.views import EMPTY, Reply, View
from ps.types import Array, Float, Int64


class Values:
    """Values and optimizer state by local slice index. One thread commits; any thread may release."""

    def __init__(
        self,
        optimizer: Optimizer,
        gathers: bool,
        keep_versions: bool,
        clip_value: float | None = None,
        codecs: Codecs = Codecs(),
    ) -> None:
        self.optimizer, self.gathers, self.keep_versions = optimizer, gathers, keep_versions
        self.clip_value = clip_value  # of each element of what the optimizer takes
        self.codecs = codecs
        self.pool = Pool()
        self.slices: list[Slice] = []
        self.current: list[Buffer] = []
        self.view: list[View | None] = []  # what all workers read, where models gather and pulls are compressed
        self.state: list[list[Float]] = []
        self.kept: list[dict[int, Buffer]] = []  # per slice: version -> values
        self.base: dict[tuple[int, int], Buffer] = {}  # (worker, slice) -> what it was last sent

    def add(self, slices: Sequence[Slice]) -> None:
        """New slices, zero until `store`."""
        for item in slices:
            buffer = self.pool.take(item.dtype, item.size)
            buffer.array.fill(0)
            names = self.optimizer.state if item.trainable else ()
            self.slices.append(item)
            self.current.append(buffer)
            codec = self.codecs.of_pull(item) if self.gathers else None
            self.view.append(None if codec is None else View(codec, item, self.pool, self.pool.copy(buffer.array)))
            self.state.append([np.zeros(item.size, item.dtype) for _ in names])
            self.kept.append({})

    def store(self, index: int, initial_N: Array) -> None:
        """Initial values of a slice; nobody holds it yet."""
        np.copyto(self.current[index].array, initial_N)
        if (view := self.view[index]) is not None:
            view.jump(self.pool.copy(initial_N))

    def hold(self, index: int, version: int, current_version: int) -> Buffer:
        """What workers read of a slice at `version`, the current or a kept one; the caller releases it."""
        if version != current_version:
            return self.kept[index][version].hold()
        return self._shown(index).hold()

    def _shown(self, index: int) -> Buffer:
        view = self.view[index]
        return self.current[index] if view is None else view.values

    def reply(self, index: int, version: int, current_version: int, mark: int, min_clock: int) -> Reply:
        """What a worker is sent of a slice at `version`. mark: of the view that it holds; a view's is version + 1."""
        view = self.view[index]
        marked = 0 if view is None else version + 1
        if view is not None and mark == marked:
            return Reply(EMPTY, None, marked, version, min_clock)
        if view is not None and mark == version == current_version:
            frame, held = view.last_frame()
        else:
            held = self.hold(index, version, current_version)
            frame = Frame(RAW, held.array)
        return Reply(frame, held, marked, version, min_clock)

    def commit(self, commit: Commit, frames: Sequence[Frame]) -> Float | None:
        """Applies one commit of these frames (in the order of its contributions).

        Returns what the optimizer took, for followers: valid until the next commit; None for an empty round.
        """
        if not frames:
            self.step(commit, None)
            return None
        if not self.gathers and (self.optimizer.TAKES == "mean" or commit.contributions[0].weight == 1.0):
            if frames[0].codec == RAW:  # one arrival's mean is itself, untouched; so is its sum at weight 1
                self.step(commit, frames[0].data)
                return frames[0].data
            combined = self.pool.take("float32", self.slices[commit.slice].size)
            self.codecs.mean(self.slices[commit.slice], frames, [1.0], 1.0, combined.array)
        else:
            combined = self._combined(commit, frames)
        self.step(commit, combined.array)
        combined.release()
        grad_N: Float = combined.array
        return grad_N

    def _combined(self, commit: Commit, frames: Sequence[Frame]) -> Buffer:
        """(sum in rank order of weight * g) / sum of weights; the sum alone where the optimizer takes it."""
        item = self.slices[commit.slice]
        weights = [push.weight for push in commit.contributions]
        out = self.pool.take(item.dtype, item.size)
        mean = self.optimizer.TAKES == "mean"
        total = math.fsum(np.array(weights, item.dtype)) if mean else 1.0  # exact: np.sum adds in a tree of its own
        self.codecs.mean(item, frames, weights, total, out.array)
        return out

    def step(self, commit: Commit, grad_N: Float | None) -> None:
        """Applies one commit; None: an empty round, the values stay and only the version moves on."""
        index = commit.slice
        if self.keep_versions:
            self.kept[index][commit.version - 1] = self._shown(index).hold()
        if grad_N is not None:
            self._update(commit, grad_N)
        if (view := self.view[index]) is not None:
            if commit.clock > view.codec.warmup:
                view.move(self.current[index].array)
            else:
                view.jump(self.pool.copy(self.current[index].array))

    def _update(self, commit: Commit, grad_N: Float) -> None:
        index = commit.slice
        old = self.current[index]
        in_place = old.holders == 1
        new = old if in_place else self.pool.take(old.array.dtype, old.array.size)
        options = self.slices[index].options
        decay = self.optimizer.weight_decay if options.weight_decay is None else options.weight_decay
        base = self.base.get((commit.contributions[0].worker, index))
        lr = commit.lr * options.lr_scale
        step = Step(lr, decay, commit.number, commit.staleness, None if base is None else base.array)
        clipped = self._clipped(grad_N)
        taken_N = grad_N if clipped is None else clipped.array
        self.optimizer.update(old.array, taken_N, self.state[index], new.array, step)
        if clipped is not None:
            clipped.release()
        self.current[index] = new
        if not in_place:
            old.release()

    def _clipped(self, grad_N: Float) -> Buffer | None:
        """The gradient clipped by value, where the run asks for it."""
        if self.clip_value is None:
            return None
        buffer = self.pool.take(grad_N.dtype, grad_N.size)
        np.clip(grad_N, -self.clip_value, self.clip_value, out=buffer.array)
        return buffer

    def remember(self, worker: int, index: int) -> None:
        """The worker is sent the current values: its next push is measured against them."""
        if (before := self.base.get((worker, index))) is not None:
            before.release()
        self.base[worker, index] = self.current[index].hold()

    def forget(self, version_S: Int64) -> None:
        """Kept versions below these are needed no longer."""
        for kept, version in zip(self.kept, version_S.tolist(), strict=True):
            for old in [v for v in kept if v < version]:
                kept.pop(old).release()

    def contents(self) -> list[bytes]:
        """Values and state of all slices, as bytes; equal on primary and follower."""
        return list(self.parts())

    def parts(self) -> Iterator[bytes]:
        """As `contents`, one slice at a time."""
        for index, (buffer, state) in enumerate(zip(self.current, self.state, strict=True)):
            yield b"".join(array.tobytes() for array in (buffer.array, self._shown(index).array, *state))


def checksum(parts: Iterable[bytes], before: int = 0) -> int:
    """crc32 of all that `Values.parts` gives, behind parts whose crc32 is `before`."""
    for part in parts:
        before = zlib.crc32(part, before)
    return before
