"""Codecs, one per file: gradient -> frame -> sum. So far `none`; error feedback lives in ps.worker.arrays."""

from __future__ import annotations

from ps.compression.none import Identity
from ps.plugins import build

COMPRESSORS: dict[str, type[Identity]] = {"none": Identity}


def compressor(spec: str) -> Identity:
    """The codec that `spec` spells. Raises: ConfigError naming what is known."""
    return build("compression", COMPRESSORS, spec)
