"""The 16 bytes in front of every frame, and the refusals that all codecs share.

Header, little-endian: u8 codec ID | u8 version = 1 | u16 flags | u32 option | u64 n elements. A check compares flags
and option with the codec's own, so that a peer with other options is told so; no length is taken from the wire.
"""

from __future__ import annotations

import struct
from typing import NoReturn

import numpy as np

from ps.compression.base import Codec
from ps.errors import FrameError
from ps.types import Float32, UInt8

HEADER = struct.Struct("<BBHIQ")
HEADER_BYTES = HEADER.size
VERSION = 1
ELEMENTS_MAX = 1 << 31  # of one slice, exclusive: an index + 1 with its sign is an int32


def refuse(codec: Codec, field: str, expected: object, got: object) -> NoReturn:
    """Raises: FrameError."""
    raise FrameError(f"{type(codec).__name__.lower()} frame: {field}: expected {expected}, got {got}")


def expect(codec: Codec, field: str, expected: int, got: int) -> None:
    """Raises: FrameError unless equal."""
    if expected != got:
        refuse(codec, field, expected, got)


def put_header(codec: Codec, frame: UInt8, n: int, flags: int = 0, option: int = 0) -> UInt8:
    """Writes the header; returns the rest of the frame."""
    assert n < ELEMENTS_MAX, n
    frame[:HEADER_BYTES] = np.frombuffer(HEADER.pack(codec.ID, VERSION, flags, option, n), np.uint8)
    return frame[HEADER_BYTES:]


def read_header(frame: UInt8) -> tuple[int, int, int]:
    """(flags, option, n)."""
    _, _, flags, option, n = HEADER.unpack_from(frame.data)
    return flags, option, n


def check_prefix(codec: Codec, frame: UInt8, n: int) -> tuple[int, int]:
    """Checks codec, version and n; returns (flags, option)."""
    if frame.size < HEADER_BYTES:
        refuse(codec, "length", f"at least {HEADER_BYTES}", frame.size)
    number, version, flags, option, size = HEADER.unpack_from(frame.data)
    expect(codec, "codec", codec.ID, number)
    expect(codec, "version", VERSION, version)
    expect(codec, "n", n, size)
    return flags, option


def check_header(codec: Codec, frame: UInt8, n: int, length: int, flags: int = 0, option: int = 0) -> UInt8:
    """Checks every field of the header and the length of the frame; returns the rest of the frame."""
    got_flags, got_option = check_prefix(codec, frame, n)
    expect(codec, "flags", flags, got_flags)
    expect(codec, "option", option, got_option)
    expect(codec, "length", length, frame.size)
    return frame[HEADER_BYTES:]


def check_finite(codec: Codec, field: str, values: Float32) -> None:
    """Raises: FrameError when one is NaN or infinite."""
    if not np.isfinite(values).all():
        refuse(codec, field, "finite", values[~np.isfinite(values)][0])


def check_units(codec: Codec, field: str, values: Float32, top: np.float32) -> None:
    """Raises: FrameError unless each is in [+0, top]. Looks at the bits: -0 would pass a comparison."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    wrong = bits > top.view(np.uint32)
    if wrong.any():
        refuse(codec, field, f"0 to {top}", values[wrong][0])
