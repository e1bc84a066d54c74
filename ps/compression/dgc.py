"""Top-k of a velocity that lives in the worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ps import kernels
from ps.compression.base import Codec, Memory
from ps.compression.sparse import Values, add_sparse, check_sparse, frame_bytes_max, put_largest
from ps.compression.topk import count
from ps.errors import ConfigError
from ps.types import Float32, UInt8

_TWICE = "dgc keeps the momentum in the worker; a second one on the server would apply it twice: use sgd, and dgc's own"


@dataclass(frozen=True)
class Dgc(Codec):
    """u <- momentum * u + g; v <- v + u; sends the largest |v|, then v = 0 there and, with `masking`, u = 0.

    The share sent falls to `ratio` by a factor of 4 every `stage` frames: 25, 6.25, 1.6, 0.4, 0.1 % (stage 0: at once).
    v is the residual, u is arrays["velocity"]. Selection is exact, not by a sampled threshold. Clip gradients before,
    to clip / sqrt(workers). A refused frame goes back into v. Source: Lin, Han, Mao, Wang & Dally,
    ICLR 2018, sections 3.1 to 3.3. Frame: `ps.compression.sparse`, k = max(1, ceil(share * n)).
    Bytes: 16 + min(4k, ceil(n / 8), varints) + 4k, or + 4 * ceil(k / 2048) + 2k for float16.
    """

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.001
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    masking: bool = True
    stage: Annotated[int, Field(ge=0)] = 100  # frames
    values: Values = "fp32"

    ID: ClassVar[int] = 9
    REFUSES: ClassVar[dict[str, str]] = dict.fromkeys(
        ("momentum", "nesterov", "delayed_nesterov", "adam", "adamw"), _TWICE
    )
    CARRIES: ClassVar[tuple[str, ...]] = ("gradient",)  # the steps behind a delta had a momentum of their own
    PULLS: ClassVar[str | None] = "it adds momentum, which values do not have"

    def __post_init__(self) -> None:
        if not self.error_feedback:
            raise ConfigError("error_feedback: expected true, got false; the residual is what dgc accumulates")

    def memory(self, rows: int, columns: int, seed: int = 0) -> Memory:
        """With arrays: "velocity", float32, zeros."""
        memory = super().memory(rows, columns, seed)
        memory.arrays = {"velocity": np.zeros(memory.size, np.float32)}
        return memory

    def share(self, encoded: int) -> float:
        """Of the elements, in the frame after `encoded` ones."""
        stages = encoded // self.stage + 1 if self.stage else 64
        return max(self.ratio, 0.25 ** min(stages, 64))

    def bytes_max(self, rows: int, columns: int) -> int:
        """Of the first stage; varints may be shorter."""
        n = rows * columns
        return frame_bytes_max(n, count(self.share(0), n), self.values == "fp16")

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        """See `Codec`."""
        velocity_N, residual_N = memory.arrays["velocity"], memory.residual_N
        assert residual_N is not None
        kernels.momentum_accumulate(grad_N, velocity_N, residual_N, self.momentum)
        k = count(self.share(memory.encoded), memory.size)
        length, index_K, value_K = put_largest(self, residual_N, k, self.values == "fp16", frame)
        kernels.scatter_add(index_K, value_K, residual_N, -1.0)
        if self.masking:
            kernels.clear(index_K, velocity_N)
        memory.encoded += 1
        return length

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        """See `Codec`. The stage of a worker is its own affair: any k from the last to the first one passes."""
        n = rows * columns
        check_sparse(self, frame, n, count(self.ratio, n), count(self.share(0), n), self.values == "fp16")

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        """See `Codec`."""
        add_sparse(frame, out_N, weight)
