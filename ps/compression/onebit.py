"""One bit per element, two means per group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ps import kernels
from ps.buffers import Pool
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_header, put_header, refuse
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
        records = self._begin(memory, frame)
        kernels.onebit_encode(grad_N, memory.residual_N, self.group, self.threshold == "mean", records)
        return HEADER_BYTES + records.size

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        length, flags = self.bytes_max(rows, columns), int(self.threshold == "mean")
        records = check_header(self, frame, rows * columns, length, flags, self.group)
        if not kernels.onebit_finite(records, self.group):
            refuse(self, "v0, v1", "finite", "NaN or Inf")

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        kernels.onebit_decode_add(frame[HEADER_BYTES:], self.group, out_N, weight)

    def mean(self, frames: Sequence[UInt8], weights: Sequence[float], total: float, out_N: Float32) -> None:
        """See `Codec`; in one pass."""
        kernels.onebit_mean([frame[HEADER_BYTES:] for frame in frames], weights, total, self.group, out_N)

    def move(self, w_N: Float32, view_N: Float32, memory: Memory, frame: UInt8, pool: Pool) -> int | None:
        """See `Codec`; in one pass."""
        records = self._begin(memory, frame)
        moved = kernels.onebit_move(w_N, view_N, self.group, self.threshold == "mean", records)
        return HEADER_BYTES + records.size if moved else None

    def _begin(self, memory: Memory, frame: UInt8) -> UInt8:
        """Writes the header; returns the records, which are yet to be written."""
        memory.encoded += 1
        length = self.bytes_max(memory.rows, memory.columns)
        return put_header(self, frame[:length], memory.size, int(self.threshold == "mean"), self.group)
