"""The upper half of each float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_header, put_header, refuse
from ps.types import Float32, UInt8

_BITS_MAX = 0x7F7F  # of the largest finite bfloat16


@dataclass(frozen=True)
class Bf16(Codec):
    """Each element becomes the nearest bfloat16, ties to even; what would round to infinity, the largest finite one.

    |error| <= 2^-8 |c| in normal numbers. Source: Kalamkar et al., arXiv 1905.12322, section 3. Frame: then the
    bfloat16 bits. Bytes: 16 + 2n.
    """

    ID: ClassVar[int] = 6

    def bytes_max(self, rows: int, columns: int) -> int:
        """Exact."""
        return HEADER_BYTES + 2 * rows * columns

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        length = self.bytes_max(memory.rows, memory.columns)
        kernels.bfloat_encode(grad_N, memory.residual_N, put_header(self, frame[:length], memory.size))
        memory.encoded += 1
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        body = check_header(self, frame, rows * columns, self.bytes_max(rows, columns))
        if (top := kernels.bits_max(body.view(np.uint16))) > _BITS_MAX:
            refuse(self, "values", f"magnitude bits at most {_BITS_MAX:#06x}", f"{top:#06x}")

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        kernels.bfloat_decode_add(frame[HEADER_BYTES:], out_N, weight)
