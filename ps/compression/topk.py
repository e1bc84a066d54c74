"""The largest elements, the rest later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.sparse import Values, add_sparse, check_sparse, frame_bytes_max, put_largest
from ps.types import Float32, UInt8


@dataclass(frozen=True)
class TopK(Codec):
    """Sends the k = max(1, ceil(ratio * n)) largest magnitudes; of equal ones, those of the lower indices.

    `values` as float32, exact, or as scaled float16. Biased. Source: Aji & Heafield, EMNLP 2017, section 3; Stich,
    Cordonnier & Jaggi, NeurIPS 2018. Frame: `ps.compression.sparse`.
    Bytes: 16 + min(4k, ceil(n / 8), varints) + 4k, or + 4 * ceil(k / 2048) + 2k for float16.
    """

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.01
    values: Values = "fp32"

    ID: ClassVar[int] = 7

    def bytes_max(self, rows: int, columns: int) -> int:
        """An upper bound: varints may be shorter."""
        n = rows * columns
        return frame_bytes_max(n, count(self.ratio, n), self.values == "fp16")

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        c_N, halves = grad_N, self.values == "fp16"
        if memory.residual_N is not None:
            kernels.accumulate(grad_N, memory.residual_N)
            c_N = memory.residual_N
        length, index_K, value_K = put_largest(self, c_N, count(self.ratio, memory.size), halves, frame)
        if memory.residual_N is not None:
            kernels.scatter_add(index_K, value_K, memory.residual_N, -1.0)
        memory.encoded += 1
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`."""
        n = rows * columns
        k = count(self.ratio, n)
        check_sparse(self, frame, n, k, k, self.values == "fp16")

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        add_sparse(frame, out_N, weight)


def count(ratio: float, n: int) -> int:
    """Elements to send of n: at least one, where there is one."""
    return min(n, max(1, math.ceil(ratio * n)))
