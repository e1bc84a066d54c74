"""One bit per element, one scale per group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_header, check_units, put_header
from ps.types import Float32, UInt8


@dataclass(frozen=True)
class Sign(Codec):
    """Each element becomes +-(mean magnitude of its group), + where it is >= 0.

    `group` in elements. Biased. Source: Karimireddy, Rebjock, Stich & Jaggi, ICML 2019, algorithm 1 (EF-signSGD), per
    group. Frame: option = group; then per group f32 scale | ceil(group / 32) u32 words as in `onebit`.
    Bytes: 16 + ceil(n / group) * (4 + 4 * ceil(group / 32)).
    """

    group: Annotated[int, Field(ge=1, lt=2**31)] = 512

    ID: ClassVar[int] = 2

    def bytes_max(self, rows: int, columns: int) -> int:
        """Exact."""
        return HEADER_BYTES + -(-rows * columns // self.group) * (4 + 4 * kernels.words(self.group))

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        length = self.bytes_max(memory.rows, memory.columns)
        records = put_header(self, frame[:length], memory.size, 0, self.group)
        kernels.sign_encode(grad_N, memory.residual_N, self.group, records)
        memory.encoded += 1
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        body = check_header(self, frame, rows * columns, self.bytes_max(rows, columns), 0, self.group)
        record_C = body.reshape(-1, 4 + 4 * kernels.words(self.group))
        check_units(self, "scale", np.ascontiguousarray(record_C[:, :4]).view(np.float32), kernels.FLOAT32_MAX)

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        kernels.sign_decode_add(frame[HEADER_BYTES:], self.group, out_N, weight)
