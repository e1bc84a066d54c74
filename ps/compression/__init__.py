"""Codecs, one per file: gradient -> frame -> sum. `none` sends slices raw."""

from __future__ import annotations

from ps.compression.base import Codec, Memory
from ps.compression.bf16 import Bf16
from ps.compression.dgc import Dgc
from ps.compression.fp16 import Fp16
from ps.compression.int8 import Int8
from ps.compression.none import Identity
from ps.compression.onebit import OneBit
from ps.compression.powersgd import PowerSgd
from ps.compression.qsgd import Qsgd
from ps.compression.sign import Sign
from ps.compression.threshold import Threshold
from ps.compression.topk import TopK
from ps.plugins import build

COMPRESSORS: dict[str, type[Codec] | type[Identity]] = {
    "none": Identity,
    "onebit": OneBit,
    "sign": Sign,
    "qsgd": Qsgd,
    "int8": Int8,
    "fp16": Fp16,
    "bf16": Bf16,
    "topk": TopK,
    "threshold": Threshold,
    "dgc": Dgc,
    "powersgd": PowerSgd,
}

__all__ = ["COMPRESSORS", "Codec", "Identity", "Memory", "compressor"]


def compressor(spec: str) -> Codec | Identity:
    """The codec that `spec` spells. Raises: ConfigError naming what is known."""
    return build("compression", COMPRESSORS, spec)
