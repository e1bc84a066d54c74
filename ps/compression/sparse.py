"""The frame of chosen elements that `topk` and `dgc` share.

Header: flags = layout (0 pairs, 1 bitmap, 2 varint) + 4 for float16 values; option = k. Then the indices, ascending:
pairs 4k bytes of u32, bitmap ceil(n / 8) bytes, varint LEB128 of the gaps; the shortest is taken, of equals the first.
Then the values: 4k bytes of f32, or the body of an fp16 frame of k elements: 4 * ceil(k / 2048) + 2k bytes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ps import kernels
from ps.compression.base import Codec
from ps.compression.fp16 import check_halves
from ps.compression.frame import HEADER_BYTES, check_finite, check_prefix, expect, put_header, read_header, refuse
from ps.types import Array, Float32, UInt8

Values = Literal["fp32", "fp16"]
PAIRS, BITMAP, VARINT = 0, 1, 2
HALVES = 4  # flag
_BLOCK = kernels.HALF_BLOCK


def value_bytes(k: int, halves: bool) -> int:
    """Of k values."""
    return 4 * -(-k // _BLOCK) + 2 * k if halves else 4 * k


def frame_bytes_max(n: int, k: int, halves: bool) -> int:
    """Varints are taken only where they are shorter than both others."""
    return HEADER_BYTES + min(4 * k, -(-n // 8)) + value_bytes(k, halves)


def put_largest(codec: Codec, value_N: Float32, k: int, halves: bool, frame: UInt8) -> tuple[int, Array, Float32]:
    """Writes the frame of the k largest |value|. Returns its length, the indices, and the values as decoded."""
    index_K, value_K = np.empty(k, np.uint32), np.empty(k, np.float32)
    kernels.largest(value_N, index_K)
    kernels.gather(value_N, index_K, value_K)
    layout, size = min(enumerate(_index_bytes(index_K, value_N.size)), key=lambda item: item[1])
    body = put_header(codec, frame, value_N.size, layout + HALVES * halves, k)
    if layout == PAIRS:
        body[:size].view(np.uint32)[:] = index_K
    elif layout == BITMAP:
        kernels.bitmap_encode(index_K, value_N.size, body[:size])
    else:
        kernels.varint_encode(index_K, body[:size])
    length = size + value_bytes(k, halves)
    if halves:
        kernels.half_encode(value_K, None, _BLOCK, body[size:length])
        value_K.fill(0)
        kernels.half_decode_add(body[size:length], _BLOCK, value_K, 1.0)
    else:
        body[size:length].view(np.float32)[:] = value_K
    return HEADER_BYTES + length, index_K, value_K


def check_sparse(codec: Codec, frame: UInt8, n: int, k_min: int, k_max: int, halves: bool) -> None:
    """Raises: FrameError unless `add_sparse` can take this frame."""
    flags, k = check_prefix(codec, frame, n)
    layout = flags - HALVES * halves
    if layout not in (PAIRS, BITMAP, VARINT):
        refuse(codec, "flags", f"{HALVES * halves} to {HALVES * halves + VARINT}", flags)
    if not k_min <= k <= k_max:
        refuse(codec, "k", k_min if k_min == k_max else f"{k_min} to {k_max}", k)
    values = value_bytes(k, halves)
    index = frame[HEADER_BYTES : max(HEADER_BYTES, frame.size - values)]
    if layout == VARINT:  # its length follows from the frame's
        if frame.size < HEADER_BYTES + values:
            refuse(codec, "length", f"at least {HEADER_BYTES + values}", frame.size)
        if fault := kernels.varint_fault(index, k, n):
            refuse(codec, "indices", f"{k} varints, below {n}", fault)
    else:
        expect(codec, "length", HEADER_BYTES + (4 * k if layout == PAIRS else -(-n // 8)) + values, frame.size)
        _check_pairs(codec, index.view(np.uint32), n) if layout == PAIRS else _check_bitmap(codec, index, n, k)
    body = frame[frame.size - values :]
    check_halves(codec, body, k) if halves else check_finite(codec, "values", body.view(np.float32))


def add_sparse(frame: UInt8, out_N: Float32, weight: float) -> Array:
    """out += float32(weight) * value at the indices, which it returns."""
    flags, k, _ = read_header(frame)
    at, index_K = frame.size - value_bytes(k, bool(flags & HALVES)), np.empty(k, np.uint32)
    index, body, layout = frame[HEADER_BYTES:at], frame[at:], flags & 3
    if layout == PAIRS:
        index_K[:] = index.view(np.uint32)
    elif layout == BITMAP:
        kernels.bitmap_decode(index, index_K)
    else:
        kernels.varint_decode(index, index_K)
    if flags & HALVES:
        value_K = np.zeros(k, np.float32)
        kernels.half_decode_add(body, _BLOCK, value_K, 1.0)
    else:
        value_K = body.view(np.float32)
    kernels.scatter_add(index_K, value_K, out_N, weight)
    return index_K


def _index_bytes(index_K: Array, n: int) -> tuple[int, int, int]:
    return 4 * index_K.size, -(-n // 8), kernels.varint_bytes(index_K)


def _check_pairs(codec: Codec, index_K: Array, n: int) -> None:
    if not (index_K[1:] > index_K[:-1]).all():
        refuse(codec, "indices", "strictly ascending", "a step that is not")
    if index_K.size and index_K[-1] >= n:
        refuse(codec, "indices", f"below {n}", index_K[-1])


def _check_bitmap(codec: Codec, bitmap: UInt8, n: int, k: int) -> None:
    if n % 8 and bitmap[-1] >> (n % 8):
        refuse(codec, "bitmap", f"bits for {n} elements", "bits behind the last")
    expect(codec, "bitmap", k, kernels.bitmap_count(bitmap))
