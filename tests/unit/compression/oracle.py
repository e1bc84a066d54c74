"""Decoders in plain Python, one element at a time, written from the layouts in the docstrings of the codecs.

They share no code with `ps`: `struct` reads the bytes, `Single` rounds each product and sum to float32.
"""

from __future__ import annotations

import math
import struct
from itertools import accumulate

import numpy as np

Single = np.float32


def decode(frame: bytes) -> list[float]:
    """The elements that a frame stands for."""
    number, version, flags, option, n = struct.unpack("<BBHIQ", frame[:16])
    assert version == 1
    rest = frame[16:]
    match number:
        case 1:
            return _levels(rest, n, option, 2)
        case 2:
            return _levels(rest, n, option, 1)
        case 3:
            return _qsgd(rest, n, flags % 256, option)
        case 4:
            return _int8(rest, n, option)
        case 5:
            return _halves(rest, n)
        case 6:
            return [_single(rest[2 * i : 2 * i + 2], shift=True) for i in range(n)]
        case 7 | 9:
            return _sparse(rest, n, flags, option)
        case 8:
            return _threshold(rest, n, flags, _single(frame[4:8]))
        case 10:
            return _product(rest, n, flags, option)
    raise AssertionError(number)


def _single(four: bytes, shift: bool = False) -> float:
    value: float = struct.unpack("<f", b"\0\0" + four if shift else four)[0]
    return value


def _times(a: float, b: float) -> float:
    return float(Single(a) * Single(b))


def _levels(rest: bytes, n: int, group: int, levels: int) -> list[float]:
    record, out = 4 * levels + 4 * math.ceil(group / 32), []
    assert len(rest) == math.ceil(n / group) * record
    for i in range(n):
        here = rest[i // group * record :]
        first, last = _single(here[:4]), _single(here[4 * levels - 4 : 4 * levels])
        word = struct.unpack_from("<I", here, 4 * levels + i % group // 32 * 4)[0]
        low = first if levels == 2 else -first
        out.append(last if word >> (i % group % 32) & 1 else low)
    return out


def _qsgd(rest: bytes, n: int, levels: int, bucket: int) -> list[float]:
    bits, units = 1 + math.ceil(math.log2(levels + 1)), math.ceil(n / bucket)
    string = int.from_bytes(rest[4 * units :], "little")
    assert len(rest) == 4 * units + math.ceil(n * bits / 8) and string >> (n * bits) == 0
    out = []
    for i in range(n):
        code = string >> (i * bits) & (1 << bits) - 1
        unit = _single(rest[i // bucket * 4 : i // bucket * 4 + 4])
        out.append(_times(code - levels, unit))
    return out


def _int8(rest: bytes, n: int, block: int) -> list[float]:
    scales = 4 * math.ceil(n / block)
    codes = struct.unpack(f"<{n}b", rest[scales:])
    return [_times(q, _single(rest[i // block * 4 : i // block * 4 + 4])) for i, q in enumerate(codes)]


def _halves(rest: bytes, n: int) -> list[float]:
    scales = 4 * math.ceil(n / 2048)
    halves = struct.unpack(f"<{n}e", rest[scales:])
    return [_times(h, _single(rest[i // 2048 * 4 : i // 2048 * 4 + 4])) for i, h in enumerate(halves)]


def _sparse(rest: bytes, n: int, flags: int, k: int) -> list[float]:
    size = 4 * math.ceil(k / 2048) + 2 * k if flags & 4 else 4 * k
    index, values = rest[: len(rest) - size], rest[len(rest) - size :]
    out = [0.0] * n
    found = {0: _pairs, 1: _bitmap, 2: _varints}[flags % 4](index)
    assert len(found) == k
    for i, value in zip(found, _halves(values, k) if flags & 4 else struct.unpack(f"<{k}f", values), strict=True):
        out[i] = value
    return out


def _pairs(index: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(index) // 4}I", index))


def _bitmap(index: bytes) -> list[int]:
    return [i for i in range(8 * len(index)) if index[i // 8] >> (i % 8) & 1]


def _varints(index: bytes) -> list[int]:
    gaps, number, shift = [], 0, 0
    for byte in index:
        number, shift = number | (byte & 127) << shift, shift + 7
        if byte < 128:
            gaps.append(number + 1)
            number = shift = 0
    return [total - 1 for total in accumulate(gaps)]


def _threshold(rest: bytes, n: int, flags: int, t: float) -> list[float]:
    if flags:
        return [(0.0, t, -t)[rest[i // 4] >> (2 * (i % 4)) & 3] for i in range(n)]
    out = [0.0] * n
    for signed in struct.unpack(f"<{len(rest) // 4}i", rest):
        out[abs(signed) - 1] = t if signed > 0 else -t
    return out


def _product(rest: bytes, n: int, flags: int, rows: int) -> list[float]:
    values = struct.unpack(f"<{len(rest) // 4}f", rest)
    if not flags:
        return list(values)
    rank, columns, out = flags // 256, n // rows, []
    p, q = values[: rows * rank], values[rows * rank :]
    for i in range(n):
        row, column = i // columns * rank, i % columns * rank
        total = Single(p[row]) * Single(q[column])
        for j in range(1, rank):
            total += Single(p[row + j]) * Single(q[column + j])
        out.append(float(total))
    return out
