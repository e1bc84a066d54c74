"""What the tests of codecs share: one encode, one decode, and gradients that need no random generator."""

from __future__ import annotations

import numpy as np

from ps.compression import Codec, Memory, compressor
from ps.kernels import floats, groups, lowrank, quantise, sparse, threshold
from ps.types import Float32, UInt8

SPECS = (
    "onebit",
    "onebit:group=5",
    "onebit:group=33,threshold=mean",
    "sign:group=40",
    "qsgd",
    "qsgd:levels=16,bucket=64,norm=l2",
    "qsgd:levels=1,bucket=8,norm=l2",
    "int8:block=50",
    "fp16",
    "bf16",
    "topk:ratio=0.02",
    "topk:ratio=0.3",
    "topk:ratio=0.05,values=fp16",
    "threshold:t=0.5",
    "threshold:t=3,adaptive=false",
    "dgc:stage=2,ratio=0.02",
    "dgc:stage=0,ratio=0.1,values=fp16,masking=false",
    "powersgd",
    "powersgd:rank=4",
)
WITH_PIECES = (floats, groups, lowrank, quantise, sparse, threshold)  # modules that know PIECE


def codec_of(spec: str) -> Codec:
    codec = compressor(spec)
    assert isinstance(codec, Codec)
    return codec


def normal(n: int, seed: int = 0, scale: float = 1.0) -> Float32:
    return (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)


def sawtooth(n: int) -> Float32:
    """Exact in every format, the same for every generator: steps of 1/16 in [-50/16, 50/16]."""
    return ((np.arange(n) * 37 % 101 - 50) / 16).astype(np.float32)


def encode(codec: Codec, grad_N: Float32, memory: Memory) -> UInt8:
    """One frame; the gradient must stay as it is, the frame as long as promised, and pass its own check."""
    before, space = grad_N.tobytes(), np.full(codec.bytes_max(memory.rows, memory.columns), 0xA5, np.uint8)
    grad_N.setflags(write=False)
    length = codec.encode(grad_N, memory, space)
    assert grad_N.tobytes() == before and 16 <= length <= space.size
    frame = space[:length].copy()
    frame.setflags(write=False)
    codec.check(frame, memory.rows, memory.columns)
    return frame


def fresh(codec: Codec, grad_N: Float32, rows: int = 0) -> tuple[UInt8, Memory]:
    """The first frame of a slice of `rows` (0: one column), and what it leaves."""
    rows = rows or grad_N.size
    memory = codec.memory(rows, grad_N.size // rows if rows else 1, seed=7)
    return encode(codec, grad_N, memory), memory


def decoded(codec: Codec, frame: UInt8, n: int) -> Float32:
    out_N = np.full(n, np.nan, np.float32)
    codec.decode(frame, out_N)
    return out_N


def residual(memory: Memory) -> Float32:
    assert memory.residual_N is not None
    return memory.residual_N
