"""Float16 with a scale per block, so that nothing overflows and small gradients keep their digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_header, put_header, refuse
from ps.types import Float32, UInt8


@dataclass(frozen=True)
class Fp16(Codec):
    """Each element becomes float16(c / scale) * scale; the scale of 2048 elements is a power of two near max|c| / 2^14.

    |error| <= 2^-11 |c| for |c| >= max|c| / 2^28. Source: Micikevicius et al., ICLR 2018, section 3.2 (scaling),
    here per block. Frame: option = 2048; then f32 scales, then the halves. Bytes: 16 + 4 * ceil(n / 2048) + 2n.
    """

    ID: ClassVar[int] = 5

    def bytes_max(self, rows: int, columns: int) -> int:
        """Exact."""
        return HEADER_BYTES + 4 * -(-rows * columns // kernels.HALF_BLOCK) + 2 * rows * columns

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        length = self.bytes_max(memory.rows, memory.columns)
        body = put_header(self, frame[:length], memory.size, 0, kernels.HALF_BLOCK)
        kernels.half_encode(grad_N, memory.residual_N, kernels.HALF_BLOCK, body)
        memory.encoded += 1
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        n = rows * columns
        check_halves(self, check_header(self, frame, n, self.bytes_max(rows, columns), 0, kernels.HALF_BLOCK), n)

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        kernels.half_decode_add(frame[HEADER_BYTES:], kernels.HALF_BLOCK, out_N, weight)


def check_halves(codec: Codec, body: UInt8, n: int) -> None:
    """Raises: FrameError unless all scales are powers of two and every half times its scale is finite."""
    scale_C, half_N = kernels.split_halves(body, n, kernels.HALF_BLOCK)
    bits = scale_C.view(np.uint32)
    wrong = (bits & 0x007FFFFF != 0) | (bits < kernels.SCALE_BITS_MIN) | (bits > kernels.SCALE_BITS_MAX)
    if wrong.any():
        refuse(codec, "scales", "a power of two, 2^-126 to 2^113", scale_C[wrong][0])
    if (top := kernels.bits_max(half_N)) > kernels.HALF_BITS_MAX:
        refuse(codec, "values", f"magnitude bits at most {kernels.HALF_BITS_MAX:#06x}", f"{top:#06x}")
