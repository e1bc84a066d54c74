"""One bit per element, two means per group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_finite, check_header, put_header
from ps.types import Float32, UInt8


@dataclass(frozen=True)
class OneBit(Codec):
    """Each element becomes the mean of those of its group on the same side of the threshold.

    `group` in elements. Threshold `zero`, or `mean`: that of the group. Biased. Source: Seide, Fu, Droppo, Li & Yu,
    Interspeech 2014, section 3. Frame "OB1": flags bit 0 = mean threshold, option = group; then per group f32 v0 |
    f32 v1 | ceil(group / 32) u32 words, element i = bit i mod 32 of word i div 32; the last group is padded with 0.
    Bytes: 16 + ceil(n / group) * (8 + 4 * ceil(group / 32)).
    """

    group: Annotated[int, Field(ge=1, lt=2**31)] = 512
    threshold: Literal["zero", "mean"] = "zero"

    ID: ClassVar[int] = 1

    def bytes_max(self, rows: int, columns: int) -> int:
        """Exact."""
        return HEADER_BYTES + -(-rows * columns // self.group) * (8 + 4 * kernels.words(self.group))

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        length, is_mean = self.bytes_max(memory.rows, memory.columns), self.threshold == "mean"
        records = put_header(self, frame[:length], memory.size, int(is_mean), self.group)
        kernels.onebit_encode(grad_N, memory.residual_N, self.group, is_mean, records)
        memory.encoded += 1
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        length, flags = self.bytes_max(rows, columns), int(self.threshold == "mean")
        body = check_header(self, frame, rows * columns, length, flags, self.group)
        record_C = body.reshape(-1, 8 + 4 * kernels.words(self.group))
        check_finite(self, "v0, v1", np.ascontiguousarray(record_C[:, :8]).view(np.float32))

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        kernels.onebit_decode_add(frame[HEADER_BYTES:], self.group, out_N, weight)
