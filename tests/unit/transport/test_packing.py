"""Frames of a message: what goes in comes out; whatever else comes in is a header to refuse."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.transport.base import Message
from ps.transport.packing import ALIGNED, LARGE_BYTES, packed, sent_bytes, unpacked
from ps.types import Array
from ps.wire import BUFFERS_MAX

SIZES = st.sampled_from([0, 1, 3, 8, 16, 17, 1000, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 5])


def buffer(size: int) -> Array:
    return np.arange(size, dtype=np.uint32).astype(np.uint8)


@given(st.binary(max_size=50), st.lists(SIZES, max_size=6))
def test_a_message_comes_back_whole_and_aligned(header: bytes, sizes: list[int]) -> None:
    first, *rest = packed(header, [buffer(size) for size in sizes])
    assert isinstance(first, bytes) == (len(first) < LARGE_BYTES)
    large = [frame for frame in rest if isinstance(frame, np.ndarray)]
    assert len(large) == len(rest)
    message = unpacked(bytes(first), large)
    assert message.header == header
    assert [b.tobytes() for b in message.buffers] == [buffer(size).tobytes() for size in sizes]
    assert all(b.nbytes >= LARGE_BYTES or b.ctypes.data % ALIGNED == 0 for b in message.buffers)
    assert [b.nbytes for b in large] == [size for size in sizes if size >= LARGE_BYTES]


@given(st.binary(max_size=300), st.lists(SIZES, max_size=6))
def test_what_a_message_takes_on_a_connection_is_counted(header: bytes, sizes: list[int]) -> None:
    buffers = [buffer(size) for size in sizes]
    frames = [len(frame) for frame in packed(header, buffers)]
    assert sent_bytes(Message(header, buffers)) == sum(length + (2 if length < 256 else 9) for length in frames)


def test_the_layout_of_the_first_frame() -> None:
    (first,) = packed(b"header", [buffer(3)])
    assert first == struct.pack("<II", 1, 3) + bytes(8) + bytes([0, 1, 2]) + bytes(13) + b"header"


@given(st.binary(max_size=100), st.lists(st.sampled_from([0, 5, LARGE_BYTES]), max_size=2))
def test_any_frames_are_a_message_of_what_came(first: bytes, sizes: list[int]) -> None:
    message = unpacked(first, [buffer(size) for size in sizes])
    assert len(message.header) <= len(first) and message.nbytes <= len(first) + sum(sizes)


@pytest.mark.parametrize(
    ("first", "sizes"),
    [
        (b"", []),
        (b"\xff\xff\xff\xff" + bytes(100), []),  # a table that is not there
        ((BUFFERS_MAX + 1).to_bytes(4, "little") + bytes(5 * BUFFERS_MAX), []),  # or of more than anybody sends
        (struct.pack("<II", 1, 50) + bytes(30), []),  # a small buffer that is not there
        (struct.pack("<II", 1, LARGE_BYTES), []),  # a large one that is not there
        (struct.pack("<II", 1, LARGE_BYTES) + bytes(20), [LARGE_BYTES + 1]),  # or of another length
        (struct.pack("<I", 0) + bytes(20), [LARGE_BYTES]),  # one that nobody spoke of
    ],
)
def test_frames_that_do_not_fit_their_table_are_a_header_to_refuse(first: bytes, sizes: list[int]) -> None:
    message = unpacked(first, [buffer(size) for size in sizes])
    assert message.header == first and not message.buffers
