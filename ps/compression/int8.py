"""One byte per element, one scale per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_header, check_units, put_header, refuse
from ps.types import Float32, UInt8


@dataclass(frozen=True)
class Int8(Codec):
    """Each element becomes q * scale, q = rint(c / scale) in [-127, 127], scale = max|c| / 127 of its block.

    `block` in elements. |error| <= max|c| / 254 in normal numbers. Source: Dettmers, Lewis, Shleifer & Zettlemoyer,
    ICLR 2022, section 2 (blockwise, here with linear levels). Frame: option = block; then f32 scales, then int8 q.
    Bytes: 16 + 4 * ceil(n / block) + n.
    """

    block: Annotated[int, Field(ge=1, lt=2**31)] = 512

    ID: ClassVar[int] = 4

    def bytes_max(self, rows: int, columns: int) -> int:
        """Exact."""
        return HEADER_BYTES + 4 * -(-rows * columns // self.block) + rows * columns

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        length = self.bytes_max(memory.rows, memory.columns)
        body = put_header(self, frame[:length], memory.size, 0, self.block)
        kernels.int8_encode(grad_N, memory.residual_N, self.block, body)
        memory.encoded += 1
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        n = rows * columns
        body = check_header(self, frame, n, self.bytes_max(rows, columns), 0, self.block)
        scales = 4 * -(-n // self.block)
        check_units(self, "scales", body[:scales].view(np.float32), kernels.unit_max(kernels.INT8_LEVELS))
        if (body[scales:] == 0x80).any():
            refuse(self, "codes", "-127 to 127", -128)

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        kernels.int8_decode_add(frame[HEADER_BYTES:], self.block, out_N, weight)
