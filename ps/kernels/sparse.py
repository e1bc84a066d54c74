"""A few elements of many: the kernels of `topk` and `dgc`. Letters: ps.kernels.groups.

`index_K` is uint32 and strictly ascending. It travels as u32, as a bitmap (element i is bit i mod 8 of byte i div 8),
or as varints: LEB128 of index_0, then of index_j - index_(j-1) - 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from ps.kernels.groups import PIECE, UInt32
from ps.types import Array, Float32, UInt8

VARINT_BYTES_MAX = 5  # of a gap below 2^32
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # the bits of |x|: as integers they order like the finite numbers
_POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


@np.errstate(all="ignore")
def accumulate(grad_N: Float32, residual_N: Float32) -> None:
    """residual += grad. Shapes: (n,)."""
    np.add(grad_N, residual_N, out=residual_N)


@np.errstate(all="ignore")
def momentum_accumulate(grad_N: Float32, velocity_N: Float32, residual_N: Float32, momentum: float) -> None:
    """velocity = momentum * velocity + grad; residual += velocity. Shapes: (n,)."""
    factor = np.float32(momentum)
    for start in range(0, grad_N.size, PIECE):
        at = slice(start, start + PIECE)
        velocity_N[at] *= factor
        velocity_N[at] += grad_N[at]
        residual_N[at] += velocity_N[at]


def largest(value_N: Float32, index_K: UInt32) -> None:
    """Writes the indices of the k largest |value|, ascending; of equals, the lower indices. 0 <= k <= n < 2^32.

    The selection needs one copy of the magnitudes, n long.
    """
    k = index_K.size
    if k == 0:
        return
    bits_N = value_N.view(np.uint32) & _MAGNITUDE
    least = np.partition(bits_N, bits_N.size - k)[bits_N.size - k]
    above, equal = np.flatnonzero(bits_N > least), np.flatnonzero(bits_N == least)
    index_K[:] = np.sort(np.concatenate([above, equal[: k - above.size]]), kind="stable")


def gather(value_N: Float32, index_K: UInt32, value_K: Float32) -> None:
    """value_K = value_N at the indices."""
    np.take(value_N, index_K, out=value_K)


def clear(index_K: UInt32, out_N: Float32) -> None:
    """out = 0 at the indices."""
    out_N[index_K] = 0


@np.errstate(all="ignore")
def scatter_add(index_K: UInt32, value_K: Float32, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * value at the indices, which are unique."""
    out_N[index_K] += np.float32(weight) * value_K


def bitmap_encode(index_K: UInt32, n: int, out: UInt8) -> None:
    """Shapes: index (k,), out (ceil(n / 8),)."""
    for start, stop, inside in _index_walk(index_K, n):
        mask = np.zeros(stop - start, np.bool_)
        mask[index_K[inside] - np.uint32(start)] = True
        out[start // 8 : -(-stop // 8)] = np.packbits(mask, bitorder="little")


def bitmap_decode(bitmap: UInt8, index_K: UInt32) -> None:
    """Shapes: bitmap (ceil(n / 8),) with k bits set, index (k,)."""
    done, step = 0, PIECE // 8
    for start in range(0, bitmap.size, step):
        found = np.flatnonzero(np.unpackbits(bitmap[start : start + step], bitorder="little"))
        index_K[done : done + found.size] = found + start * 8
        done += found.size


def bitmap_count(bitmap: UInt8) -> int:
    """Bits that are set."""
    step = PIECE
    return sum(int(_POPCOUNT[bitmap[i : i + step]].sum(dtype=np.int64)) for i in range(0, bitmap.size, step))


def varint_bytes(index_K: UInt32) -> int:
    """Length of `varint_encode`'s output."""
    return int(_lengths(_gaps(index_K)).sum(dtype=np.int64))


def varint_encode(index_K: UInt32, out: UInt8) -> None:
    """Shapes: index (k,), out (varint_bytes(index),)."""
    gap_K = _gaps(index_K)
    length_K = _lengths(gap_K)
    start_K = np.cumsum(length_K, dtype=np.int64) - length_K
    for j in range(VARINT_BYTES_MAX):
        has_K = length_K > j
        more_K = (length_K[has_K] > j + 1).astype(np.uint8) << np.uint8(7)
        out[start_K[has_K] + j] = (gap_K[has_K] >> np.uint32(7 * j) & np.uint32(0x7F)).astype(np.uint8) | more_K


def varint_fault(code: UInt8, k: int, n: int) -> str:
    """What is wrong with these bytes as k indices below n, or "". Takes memory by their length only."""
    end_K = np.flatnonzero(code < 0x80)
    if end_K.size != k or (code.size and code[-1] >= 0x80):
        return f"{end_K.size} varints" if end_K.size != k else "a varint without an end"
    length_K = np.diff(end_K, prepend=-1)
    if k and (int(length_K.max()) > VARINT_BYTES_MAX or bool(((code[end_K] == 0) & (length_K > 1)).any())):
        return "a varint that is longer than its number"
    last = int(_from_varints(code, end_K, length_K)[-1]) if k else -1
    return "" if last < n else f"index {last}"


def varint_decode(code: UInt8, index_K: UInt32) -> None:
    """Shapes: code as `varint_encode` writes it, index (k,)."""
    end_K = np.flatnonzero(code < 0x80)
    index_K[:] = _from_varints(code, end_K, np.diff(end_K, prepend=-1))


def _from_varints(code: UInt8, end_K: Array, length_K: Array) -> Array:
    start_K = end_K - length_K + 1
    gap_K = np.zeros(end_K.size, np.uint64)
    for j in range(VARINT_BYTES_MAX):
        has_K = length_K > j
        gap_K[has_K] |= (code[start_K[has_K] + j] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * j)
    return np.cumsum(gap_K + np.uint64(1)) - np.uint64(1)


def _gaps(index_K: UInt32) -> UInt32:
    gap_K = index_K.copy()
    gap_K[1:] -= index_K[:-1] + np.uint32(1)
    return gap_K


def _lengths(gap_K: UInt32) -> UInt8:
    length_K = np.ones(gap_K.size, np.uint8)
    for j in range(1, VARINT_BYTES_MAX):
        length_K += gap_K >= np.uint32(1 << 7 * j)
    return length_K


def _index_walk(index_K: UInt32, n: int) -> Iterator[tuple[int, int, slice]]:
    """(start, stop, which indices lie between) for each piece of n elements."""
    edges = np.arange(0, n, PIECE, dtype=np.uint64).astype(np.uint32)
    first = np.searchsorted(index_K, edges).tolist()
    for i, (low, high) in enumerate(itertools.pairwise([*first, index_K.size])):
        yield i * PIECE, min((i + 1) * PIECE, n), slice(low, high)
