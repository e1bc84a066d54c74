"""+-t for each element that has reached t."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_prefix, expect, put_header, read_header, refuse
from ps.errors import ConfigError
from ps.types import Float32, UInt8

_DENSE = 1  # flag
_STEP = 0.5 ** (1 / 20)  # of the adaptive t
_T_MIN, _T_MAX = 1e-8, 1e30  # gradients that stay zero would take t to 0
_SPARSE_MIN, _SPARSE_MAX = 1e-4, 1e-2  # share of elements sent that leaves t as it is


@dataclass(frozen=True)
class Threshold(Codec):
    """Sends +-t wherever the residual has reached t, and keeps the rest. Does not work without error feedback.

    `t` in gradient units, the first one where `adaptive`: times 0.5^(1/20) after a frame with fewer than 0.01 % of the
    elements, divided by it after one with more than 1 %, at least 1e-8. Every `clip_every` frames (0: never) the
    residual is clipped to +-5t; the magnitude that it loses is summed in arrays["clipped"].
    Source: Strom, Interspeech 2015, section 3; adaptive t and clip: Deeplearning4j, gradient sharing.
    Frame: flags bit 0 = dense, option = the bits of f32 t; then int32 +-(i + 1), ascending by i, or, when more than
    n / 16 elements are sent, two bits each: 0, 1 = +t, 2 = -t, the first in the lowest.
    Bytes: 16 + 4 * sent, or dense 16 + ceil(n / 4).
    """

    t: Annotated[float, Field(ge=_T_MIN, le=_T_MAX)] = 1e-3
    adaptive: bool = True
    clip_every: Annotated[int, Field(ge=0)] = 5

    ID: ClassVar[int] = 8
    PULLS: ClassVar[str | None] = "it keeps a residual of its own, and what a view has not yet got would count twice"

    def __post_init__(self) -> None:
        if not self.error_feedback:
            raise ConfigError(
                "threshold: error_feedback: expected true, got false; what has not reached t would be lost for good"
            )

    def memory(self, rows: int, columns: int, seed: int = 0) -> Memory:
        """With arrays: "threshold", the t of the next frame; "clipped", the magnitude cut off so far."""
        memory = super().memory(rows, columns, seed)
        memory.arrays = {"threshold": np.array([self.t]), "clipped": np.zeros(1)}
        return memory

    def bytes_max(self, rows: int, columns: int) -> int:
        """The dense form; the sparse one is taken only where it is not longer."""
        return HEADER_BYTES + -(-rows * columns // 4)

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        n, residual_N, t = memory.size, memory.residual_N, float(memory.arrays["threshold"][0])
        assert residual_N is not None
        sent = kernels.threshold_count(grad_N, residual_N, t)
        is_dense = 16 * sent > n
        length = HEADER_BYTES + (-(-n // 4) if is_dense else 4 * sent)
        body = put_header(self, frame[:length], n, _DENSE * is_dense, _bits(t))
        (kernels.threshold_dense if is_dense else kernels.threshold_sparse)(residual_N, t, body)
        memory.encoded += 1
        self._adapt(memory, sent)
        return length

    def _adapt(self, memory: Memory, sent: int) -> None:
        t, n, residual_N = memory.arrays["threshold"], memory.size, memory.residual_N
        assert residual_N is not None
        if self.adaptive and sent < _SPARSE_MIN * n:
            t[0] = max(t[0] * _STEP, _T_MIN)
        elif self.adaptive and sent > _SPARSE_MAX * n:
            t[0] = min(t[0] / _STEP, _T_MAX)
        if self.clip_every and memory.encoded % self.clip_every == 0:
            memory.arrays["clipped"] += kernels.threshold_clip(residual_N, 5.0 * t[0])

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        n = rows * columns
        flags, option = check_prefix(self, frame, n)
        low, high = (_T_MIN, _T_MAX) if self.adaptive else (self.t, self.t)
        if not _bits(low) <= option <= _bits(high):
            refuse(self, "t", f"{low:g} to {high:g}", _t(option))
        body = frame[HEADER_BYTES:]
        if flags == _DENSE:
            expect(self, "length", HEADER_BYTES + -(-n // 4), frame.size)
            if fault := kernels.threshold_dense_fault(body, n):
                refuse(self, "codes", "0, 1, 2", fault)
        else:
            expect(self, "flags", 0, flags)
            self._check_sparse(body, n)

    def _check_sparse(self, body: UInt8, n: int) -> None:
        if body.size % 4 or body.size // 4 > n // 16:
            refuse(self, "length", f"16 + 4 * sent, sent at most n / 16 = {n // 16}", HEADER_BYTES + body.size)
        number = np.abs(body.view(np.int32).astype(np.int64))
        if number.size and (number[0] < 1 or number[-1] > n or not (number[1:] > number[:-1]).all()):
            refuse(self, "indices", f"+-1 to +-{n}, ascending", "another, or none")

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        flags, option, _ = read_header(frame)
        add = kernels.threshold_dense_add if flags & _DENSE else kernels.threshold_sparse_add
        add(frame[HEADER_BYTES:], _t(option), out_N, weight)


def _bits(t: float) -> int:
    """Of float32(t); they order like the positive numbers."""
    return int(np.array([t], np.float32).view(np.uint32)[0])


def _t(option: int) -> float:
    """The float32 of these bits."""
    return float(np.array([option], np.uint32).view(np.float32)[0])
