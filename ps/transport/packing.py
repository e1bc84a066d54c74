"""How a message lies in frames of a socket: all that is small in the first, each large buffer in one of its own.

The first frame: u32 count of buffers | u32 length of each | small buffers, each from a multiple of 16 on | header.
Every frame costs both ends ten microseconds or more, a copy of a small buffer less.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from ps.transport.base import Message
from ps.types import Array
from ps.wire import BUFFERS_MAX

LARGE_BYTES = 256 << 10  # buffers from here on are read where they lie; smaller ones are cheaper to copy than to track
ALIGNED = 16  # where small buffers begin, so that they can be read as any dtype
PADDING = [bytes(-length % ALIGNED) for length in range(ALIGNED)]


def packed(header: bytes, buffers: Sequence[Array]) -> list[bytes | Array]:
    """The frames of a message: arrays where they are large, bytes where copying costs less. buffers: plain bytes."""
    assert len(buffers) <= BUFFERS_MAX, len(buffers)
    table = struct.pack(f"<{len(buffers) + 1}I", len(buffers), *(buffer.nbytes for buffer in buffers))
    pieces: list[Any] = [table, PADDING[len(table) % ALIGNED]]
    large: list[bytes | Array] = []
    for buffer in buffers:
        if buffer.nbytes < LARGE_BYTES:
            pieces += (buffer, PADDING[buffer.nbytes % ALIGNED])
        else:
            large.append(buffer)
    first = b"".join((*pieces, header))
    return [first if len(first) < LARGE_BYTES else np.frombuffer(first, np.uint8), *large]


def sent_bytes(message: Message) -> int:
    """What a message takes on a connection: its frames, with what ZeroMQ writes ahead of each (ZMTP 3.1, framing)."""
    small = [buffer.nbytes for buffer in message.buffers if buffer.nbytes < LARGE_BYTES]
    large = [buffer.nbytes for buffer in message.buffers if buffer.nbytes >= LARGE_BYTES]
    first = _aligned(4 + 4 * len(message.buffers)) + sum(map(_aligned, small)) + len(message.header)
    return sum(size + (2 if size < 256 else 9) for size in (first, *large))


def unpacked(first: bytes | memoryview, large: Sequence[Array]) -> Message:
    """The message in these frames. What makes no sense becomes a header, for its reader to refuse."""
    try:
        (count,) = struct.unpack_from("<I", first)
        lengths = struct.unpack_from(f"<{count}I", first, 4) if count <= BUFFERS_MAX else None
    except struct.error:  # a table that is not there
        lengths = None
    if lengths is None:
        return Message(bytes(first))
    at = _aligned(4 + 4 * count)
    following = iter(large)
    buffers: list[Array] = []
    for length in lengths:
        if length < LARGE_BYTES:
            if at + length > len(first):
                return Message(bytes(first))
            buffers.append(np.frombuffer(first, np.uint8, length, at))
            at = _aligned(at + length)
        else:
            buffer = next(following, None)
            if buffer is None or buffer.nbytes != length:
                return Message(bytes(first))
            buffers.append(buffer)
    if at > len(first) or next(following, None) is not None:
        return Message(bytes(first))
    return Message(bytes(first[at:]), buffers)


def _aligned(at: int) -> int:
    return at + -at % ALIGNED
