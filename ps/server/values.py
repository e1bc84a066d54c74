"""The arrays of one shard: values, optimizer state, kept versions; immutable while anybody holds them.

A commit writes in place only if nobody holds the slice, else into a pool buffer; the old one returns to the pool when
its last holder (reply, kept version, page, checkpoint) lets go. Buffers stay mapped: fresh pages cost ten times a copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ps import kernels
from ps.buffers import Buffer, Pool
from ps.keyspace import Slice
from ps.optim.base import Optimizer, Step
from ps.server.ledger import Commit
from ps.types import Array, Float


class Values:
    """Values and optimizer state by local slice index. One thread commits; any thread may release."""

    def __init__(
        self, optimizer: Optimizer, gathers: bool, keep_versions: bool, clip_value: float | None = None
    ) -> None:
        self.optimizer, self.gathers, self.keep_versions = optimizer, gathers, keep_versions
        self.clip_value = clip_value  # of each element of what the optimizer takes
        self.pool = Pool()
        self.slices: list[Slice] = []
        self.current: list[Buffer] = []
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
            self.state.append([np.zeros(item.size, item.dtype) for _ in names])
            self.kept.append({})

    def store(self, index: int, initial_N: Array) -> None:
        """Initial values of a slice; nobody holds it yet."""
        np.copyto(self.current[index].array, initial_N)

    def hold(self, index: int, version: int, current_version: int) -> Buffer:
        """The values of a slice at `version`, which is the current or a kept one; the caller releases them."""
        return (self.current[index] if version == current_version else self.kept[index][version]).hold()

    def commit(self, commit: Commit, frames: Sequence[Float]) -> Float | None:
        """Applies one commit of these frames (in the order of its contributions).

        Returns what the optimizer took, for followers: valid until the next commit; None for an empty round.
        """
        if not frames:
            self.step(commit, None)
            return None
        if not self.gathers and self.optimizer.TAKES == "mean":
            self.step(commit, frames[0])  # one arrival's mean is itself, untouched
            return frames[0]
        combined = self._combined(commit, frames)
        self.step(commit, combined.array)
        combined.release()
        grad_N: Float = combined.array
        return grad_N

    def _combined(self, commit: Commit, frames: Sequence[Float]) -> Buffer:
        """(sum in rank order of float32(weight) * g) / sum of weights; the sum alone where the optimizer takes it."""
        weights = [push.weight for push in commit.contributions]
        out = self.pool.take(frames[0].dtype.name, frames[0].size)
        kernels.weighted_sum(frames, weights, out.array)
        if self.optimizer.TAKES == "mean":
            total = math.fsum(np.array(weights, frames[0].dtype))  # exact: np.sum adds in a tree of its own
            kernels.divide(out.array, total, out.array)
        return out

    def step(self, commit: Commit, grad_N: Float | None) -> None:
        """Applies one commit; None: an empty round, the values stay and only the version moves on."""
        index = commit.slice
        old = self.current[index]
        if grad_N is None:
            if self.keep_versions:
                self.kept[index][commit.version - 1] = old.hold()
            return
        in_place = old.holders == 1 and not self.keep_versions
        new = old if in_place else self.pool.take(old.array.dtype.name, old.array.size)
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
        if self.keep_versions:
            self.kept[index][commit.version - 1] = old
        elif not in_place:
            old.release()

    def _clipped(self, grad_N: Float) -> Buffer | None:
        """The gradient clipped by value, where the run asks for it."""
        if self.clip_value is None:
            return None
        buffer = self.pool.take(grad_N.dtype.name, grad_N.size)
        np.clip(grad_N, -self.clip_value, self.clip_value, out=buffer.array)
        return buffer

    def remember(self, worker: int, index: int) -> None:
        """The worker is sent the current values: its next push is measured against them."""
        if (before := self.base.get((worker, index))) is not None:
            before.release()
        self.base[worker, index] = self.current[index].hold()

    def forget(self, version: int) -> None:
        """Kept versions below `version` are needed no longer."""
        for kept in self.kept:
            for old in [v for v in kept if v < version]:
                kept.pop(old).release()

    def contents(self) -> list[bytes]:
        """Values and state of all slices, as bytes; equal on primary and follower."""
        return [
            b"".join([buffer.array.tobytes(), *(array.tobytes() for array in state)])
            for buffer, state in zip(self.current, self.state, strict=True)
        ]
