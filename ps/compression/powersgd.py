"""Two thin matrices instead of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.frame import HEADER_BYTES, check_finite, check_header, put_header, read_header, refuse
from ps.types import Float32, UInt8

_FACTORS = 1  # flag


@dataclass(frozen=True)
class PowerSgd(Codec):
    """A slice as m x n matrix C becomes P Q^T of rank `rank`: P = orthonormalised C Q of the last frame, Q = C^T P.

    The variant in one message: each worker runs both halves alone, so it suits asynchronous servers. Biased. Used where
    2 * rank * (m + n) < m * n, else the slice goes raw. The first Q comes from the seed. The bytes of a frame repeat on
    one machine with one BLAS and thread count, not across machines; both ends decode P Q^T in one fixed order, so
    residual and server agree all the same. Source: Vogels, Karimireddy & Jaggi, NeurIPS 2019, algorithm 1.
    Frame: flags = 256 * rank + 1 for factors, 0 for raw, option = m; then f32 P, f32 Q row by row, or n f32.
    Bytes: 16 + 4 * rank * (m + n), or 16 + 4 * m * n.
    """

    rank: Annotated[int, Field(ge=1, le=32)] = 2

    ID: ClassVar[int] = 10
    PULLS: ClassVar[str | None] = (
        "its frames depend on the machine's BLAS, and a follower must repeat a view byte for byte"
    )

    def memory(self, rows: int, columns: int, seed: int = 0) -> Memory:
        """With arrays: "q" (columns, rank), float32, where factors are used."""
        memory = super().memory(rows, columns, seed)
        if self._is_thin(rows, columns):
            random = np.random.default_rng(seed)
            memory.arrays = {"q": random.standard_normal((columns, self.rank)).astype(np.float32)}
        return memory

    def bytes_max(self, rows: int, columns: int) -> int:
        """Exact."""
        elements = self.rank * (rows + columns) if self._is_thin(rows, columns) else rows * columns
        return HEADER_BYTES + 4 * elements

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        rows, columns, residual_N, c_N = memory.rows, memory.columns, memory.residual_N, grad_N
        length = self.bytes_max(rows, columns)
        body = put_header(self, frame[:length], memory.size, self._flags(rows, columns), rows).view(np.float32)
        if residual_N is not None:
            kernels.accumulate(grad_N, residual_N)
            c_N = residual_N
        memory.encoded += 1
        if not self._is_thin(rows, columns):
            body[:] = c_N
            if residual_N is not None:
                residual_N.fill(0)
            return length
        p_MR, q_NR = np.empty((rows, self.rank), np.float32), np.empty((columns, self.rank), np.float32)
        kernels.factor(c_N.reshape(rows, columns), memory.arrays["q"], p_MR, q_NR)
        body[: p_MR.size], body[p_MR.size :] = p_MR.reshape(-1), q_NR.reshape(-1)
        if residual_N is not None:
            kernels.product_add(p_MR, q_NR, residual_N.reshape(rows, columns), -1.0)
        alive_R = q_NR.any(axis=0)  # a zero column would stay zero for good: the next frame starts from the old one
        np.copyto(memory.arrays["q"], q_NR, where=alive_R)
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        length, flags = self.bytes_max(rows, columns), self._flags(rows, columns)
        values = check_header(self, frame, rows * columns, length, flags, rows).view(np.float32)
        check_finite(self, "values", values)
        if flags and not (bound := kernels.product_bound(*self._factors(values, rows))) <= float(kernels.FLOAT32_MAX):
            refuse(self, "P Q^T", "finite", f"up to {bound:g}")

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        flags, rows, _ = read_header(frame)
        values = frame[HEADER_BYTES:].view(np.float32)
        if flags & _FACTORS:
            kernels.product_add(*self._factors(values, rows), out_N.reshape(rows, -1), weight)
        else:
            kernels.scaled_add(values, out_N, weight)

    def _factors(self, values: Float32, rows: int) -> tuple[Float32, Float32]:
        cut = rows * self.rank
        return values[:cut].reshape(-1, self.rank), values[cut:].reshape(-1, self.rank)

    def _is_thin(self, rows: int, columns: int) -> bool:
        return 2 * self.rank * (rows + columns) < rows * columns

    def _flags(self, rows: int, columns: int) -> int:
        return _FACTORS + 256 * self.rank if self._is_thin(rows, columns) else 0
