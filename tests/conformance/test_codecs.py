"""Every codec of the table holds what `check_codec` asks for, and broken ones are caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest

from ps.buffers import Pool
from ps.compression import COMPRESSORS, Memory, compressor
from ps.compression.base import Codec
from ps.compression.fp16 import Fp16
from ps.testing import check_codec
from ps.types import Float32, UInt8

SPECS = [name for name in COMPRESSORS if name != "none"]
ADDS_OR_LOSES = {"dgc", "threshold"}  # momentum; clips what is left


@pytest.mark.parametrize(
    "spec", [*SPECS, "onebit:group=33,threshold=mean", "topk:ratio=0.1,values=fp16", "sign:group=7"]
)
def test_a_shipped_codec_holds_all_rules(spec: str) -> None:
    codec = compressor(spec)
    assert isinstance(codec, Codec)
    check_codec(codec, conserves=spec not in ADDS_OR_LOSES)


@pytest.mark.parametrize("spec", ["dgc:momentum=0,stage=0", "threshold:clip_every=0", "qsgd:error_feedback=true"])
def test_without_what_it_adds_it_conserves(spec: str) -> None:
    codec = compressor(spec)
    assert isinstance(codec, Codec)
    check_codec(codec)


@dataclass(frozen=True)
class Forgetful(Fp16):
    """Keeps no residual."""

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        length = super().encode(grad_N, memory, frame)
        if memory.residual_N is not None:
            memory.residual_N.fill(0)
        return length


@dataclass(frozen=True)
class Trusting(Fp16):
    """Takes any frame."""

    def check(self, frame: UInt8, rows: int, columns: int) -> None:
        pass


@dataclass(frozen=True)
class Heavy(Fp16):
    """Forgets the weight."""

    def decode_add(self, frame: UInt8, out_N: Float32, weight: float) -> None:
        super().decode_add(frame, out_N, 1.0)


@dataclass(frozen=True)
class Careless(Fp16):
    """A refused frame is lost."""

    def refund(self, frame: UInt8, memory: Memory) -> None:
        pass


@dataclass(frozen=True)
class Unfair(Fp16):
    """Its mean forgets the weights."""

    def mean(self, frames: Sequence[UInt8], weights: Sequence[float], total: float, out_N: Float32) -> None:
        super().mean(frames, [1.0] * len(frames), total, out_N)


@dataclass(frozen=True)
class Lame(Fp16):
    """Its move leaves the view where it was."""

    def move(self, w_N: Float32, view_N: Float32, memory: Memory, frame: UInt8, pool: Pool) -> int | None:
        return super().move(w_N, view_N.copy(), memory, frame, pool)


@dataclass(frozen=True)
class Blind(Fp16):
    """Its move does not look for NaN."""

    def move(self, w_N: Float32, view_N: Float32, memory: Memory, frame: UInt8, pool: Pool) -> int | None:
        return super().move(np.nan_to_num(w_N), view_N, memory, frame, pool)


SHARES = (1 / n for n in count(2))


@dataclass(frozen=True)
class Moody(Fp16):
    """Other bytes each time."""

    def encode(self, grad_N: Float32, memory: Memory, frame: UInt8) -> int:
        return super().encode(grad_N * np.float32(next(SHARES)), memory, frame)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (Forgetful(), "differs from given"),
        (Trusting(), "check takes"),
        (Heavy(), "decode_add is not"),
        (Careless(), "differs from given"),
        (Moody(), "other bytes"),
        (Unfair(), "mean is not"),
        (Lame(), "move is not"),
        (Blind(), "move takes NaN"),
    ],
)
def test_a_broken_codec_is_caught(broken: Codec, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_codec(broken)
