"""A few levels per element, rounded at random so that the mean is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_header, check_units, put_header, refuse
from ps.types import Float32, UInt8


@dataclass(frozen=True)
class Qsgd(Codec):
    """Each element becomes +-q * norm / levels, with q one of the two integers around |c| * levels / norm.

    Unbiased, so error feedback is off unless asked for. A code has 1 + ceil(log2(levels + 1)) bits: 7 levels take 4.
    Norm of a bucket of d: `max`, or `l2` as in the theory, E|Q - c|^2 <= min(d / levels^2, sqrt(d) / levels) |c|^2,
    with more variance. Where that exceeds |c|^2 (l2, fewer than sqrt(d) levels), what is left grows from frame to
    frame: no error feedback then. Random bits come from the seed, the frame's number and the element's
    index alone. Source: Alistarh, Grubic, Li, Tomioka & Vojnovic, NIPS 2017, section 3.
    Frame: flags = levels + 256 for max, option = bucket; then f32 norm / levels of each bucket, then all codes
    (levels +- q) as one little-endian bit string.
    Bytes: 16 + 4 * ceil(n / bucket) + ceil(n * bits / 8).
    """

    error_feedback: bool = False
    levels: Annotated[int, Field(ge=1, le=127)] = 7
    bucket: Annotated[int, Field(ge=8, lt=2**31, multiple_of=8)] = 512  # elements; then buckets fill whole bytes
    norm: Literal["max", "l2"] = "max"

    ID: ClassVar[int] = 3
    PULLS: ClassVar[str | None] = "its noise may be larger than the change that it encodes"

    @property
    def bits(self) -> int:
        """Of one code."""
        return kernels.bits_of_levels(self.levels)

    def bytes_max(self, rows: int, columns: int) -> int:
        """Exact."""
        n = rows * columns
        return HEADER_BYTES + 4 * -(-n // self.bucket) + -(-n * self.bits // 8)

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        length, key = self.bytes_max(memory.rows, memory.columns), kernels.random_key(memory.seed, memory.encoded)
        body = put_header(self, frame[:length], memory.size, self._flags, self.bucket)
        kernels.qsgd_encode(grad_N, memory.residual_N, self.bucket, self.levels, self.norm == "l2", key, body)
        memory.encoded += 1
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        n = rows * columns
        body = check_header(self, frame, n, self.bytes_max(rows, columns), self._flags, self.bucket)
        units = body[: 4 * -(-n // self.bucket)].view(np.float32)
        check_units(self, "norm / levels", units, kernels.unit_max(self.levels))
        code = kernels.qsgd_code_max(body, n, self.bucket, self.levels)
        if code > 2 * self.levels:
            refuse(self, "codes", f"at most {2 * self.levels}", code)

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        kernels.qsgd_decode_add(frame[HEADER_BYTES:], self.bucket, self.levels, out_N, weight)

    @property
    def _flags(self) -> int:
        return self.levels + 256 * (self.norm == "max")
