"""What every codec is: a frozen dataclass that turns one slice's gradient into a frame, and a frame into a sum.

A codec holds options only. What it remembers of one slice between two calls is a `Memory`, owned by the worker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ps import kernels
from ps.buffers import Pool
from ps.types import Array, Float32, UInt8


@dataclass
class Memory:
    """What one codec remembers of one slice on one worker. All of it belongs to that worker's checkpoint.

    `residual_N` (float32, gradient units) is what earlier frames have left out, or None without error feedback.
    `seed` and `encoded` (frames so far) are all that random codecs draw from: a replay gives the same bytes. `lr` is
    the learning rate in force when the residual was last added to; 0: nothing was.
    """

    rows: int
    columns: int  # the slice as a matrix; rows * columns elements
    residual_N: Float32 | None
    seed: int = 0
    encoded: int = 0
    lr: float = 0.0
    arrays: dict[str, Array] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Elements of the slice."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Codec(ABC):
    """One lossy code for float32 slices.

    `warmup`: clocks that travel dense before the first frame. `min_elements`: slices that hold a smaller parameter
    travel dense always. `error_feedback`: what a frame leaves out is added to the next one (Seide et al., 2014).
    """

    warmup: Annotated[int, Field(ge=0)] = 0
    min_elements: Annotated[int, Field(ge=0)] = 1024
    error_feedback: bool = True

    ID: ClassVar[int]  # of the codec, on the wire; 0 is the raw slice
    REFUSES: ClassVar[dict[str, str]] = {}  # server optimizer -> why this codec is wrong with it
    CARRIES: ClassVar[tuple[str, ...]] = ("gradient", "delta")  # what it may encode
    PULLS: ClassVar[str | None] = None  # why it cannot encode values; None: it can

    def memory(self, rows: int, columns: int, seed: int = 0) -> Memory:
        """A fresh memory of one slice."""
        residual_N = np.zeros(rows * columns, np.float32) if self.error_feedback else None
        return Memory(rows, columns, residual_N, seed)

    @abstractmethod
    def bytes_max(self, rows: int, columns: int) -> int:
        """The largest frame of a slice of this shape, in bytes."""

    @abstractmethod
    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """Encodes grad + residual into `frame` (`bytes_max` long); the residual then holds what the frame leaves out.

        Returns the length of the frame. `grad_N` is read only, flat, contiguous and finite.
        """

    @abstractmethod
    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """Raises: FrameError unless `decode_add` can take this frame: lengths, counts, indices, finite scales."""

    @abstractmethod
    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """out += float32(weight) * decoded, each product and each sum rounded once; `frame` has passed `check`."""

    def mean(self, frames: Sequence[UInt8], weights: Sequence[float], total: float, out_N: Float32) -> None:
        """out = (sum in the given order of float32(weight) * decoded, from zeros) / float32(total), as `decode_add`."""
        out_N.fill(0.0)
        for frame, weight in zip(frames, weights, strict=True):
            self.decode_add(frame, out_N, weight)
        if total != 1.0:
            kernels.divide(out_N, total, out_N)

    def move(self, w_N: Float32, view_N: Float32, memory: Memory, frame: UInt8, pool: Pool) -> int | None:
        """Encodes w - view into `frame`, as `encode` does without a residual, and adds what it decodes to to the view.

        Returns the length of the frame; None where an element of w - view is not finite: what the view holds is then of
        no use. pool: for scratch.
        """
        left = pool.take("float32", w_N.size)
        with np.errstate(all="ignore"):
            np.subtract(w_N, view_N, out=left.array)
        length = self.encode(left.array, memory, frame) if kernels.all_finite(left.array) else None
        left.release()
        if length is not None:
            self.decode_add(frame[:length], view_N, 1.0)
        return length

    def decode(self, frame: UInt8, out_N: Float32) -> None:
        """out = decoded."""
        self.mean([frame], [1.0], 1.0, out_N)

    def refund(self, frame: UInt8, memory: Memory) -> None:
        """A refused frame goes back into the residual, where there is one (conservation, G9)."""
        if memory.residual_N is not None:
            self.decode_add(frame, memory.residual_N, 1.0)
