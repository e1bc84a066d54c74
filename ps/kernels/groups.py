"""Groups of elements: walks over whole groups, sums in one fixed order, and the choice between two levels by bit.

Shape letters, here and in all codec kernels: `_N` elements of the slice, `_C` groups (of the piece at hand), `_CR` the
elements of each group, `_K` elements that are sent. The last group may be short. Native kernels give the same bytes:
float32 + - * / sqrt and compare, each rounded once, in the written order; sums only by `lane_sums`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ps.types import Array, Bool, Float, Float32, UInt8

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
UInt32 = NDArray[np.uint32]

PIECE = 32 * 1024  # elements; speed only: no piece cuts a group, and groups do not know of each other
LANES = 16
FLOAT32_MAX = np.finfo(np.float32).max


def pieces(n: int, group: int) -> Iterator[tuple[slice, slice]]:
    """(elements, groups) of each piece: whole groups, about PIECE elements; a short last group comes alone.

    Scratch is as long as one piece, so one group that is longer than PIECE costs scratch of its own length.
    """
    whole, step = n // group, max(1, PIECE // max(group, LANES))
    for first in range(0, whole, step):
        last = min(first + step, whole)
        yield slice(first * group, last * group), slice(first, last)
    if whole * group < n:
        yield slice(whole * group, n), slice(whole, whole + 1)


def lane_sums(x_CR: Float) -> Float64:
    """The sum of each group, shape (C,).

    16 float64 lanes start at +0; lane l adds the elements i = l mod 16, i ascending; then the upper half of the lanes
    is added to the lower one, 8, 4, 2, 1. A zero changes no lane, so elements may be masked by zeros.
    """
    groups, length = x_CR.shape
    whole = length - length % LANES
    rows = x_CR[:, :whole].reshape(groups, -1, LANES)
    lanes: Float64 = np.add.reduce(rows, axis=1, dtype=np.float64, initial=0.0)
    lanes[:, : length - whole] += x_CR[:, whole:]
    half = LANES // 2
    while half:
        lanes = lanes[:, :half] + lanes[:, half:]
        half //= 2
    return lanes[:, 0]


def largest_magnitude(x_CR: Float32) -> Float32:
    """The largest |x| of each group, shape (C,)."""
    largest: Float32 = np.maximum.reduce(np.abs(x_CR), axis=1)
    return largest


def corrected(grad_B: Float32, residual_B: Float32 | None) -> Float32:
    """c = grad + residual, written over the residual; without one, the gradient itself (read only)."""
    return grad_B if residual_B is None else np.add(grad_B, residual_B, out=residual_B)


def part(residual_N: Float32 | None, at: slice) -> Float32 | None:
    """This part of the residual, where there is one."""
    return None if residual_N is None else residual_N[at]


def select(bit_CR: Bool | UInt8, low_C: Float32, high_C: Float32) -> Float32:
    """high where the bit is 1, else low, by exclusive or: exact, -0 too, and several times faster than np.where."""
    low, high = bits_of(low_C)[:, None], bits_of(high_C)[:, None]
    chosen: Int32 = np.multiply(bit_CR.view(np.uint8), low ^ high)
    chosen ^= low
    return chosen.view(np.float32)


def bits_of(x: Float32) -> Int32:
    """The float32 bit patterns."""
    return np.ascontiguousarray(x).view(np.int32)


def float32_of(x: Array) -> Float32:
    """Rounded to float32; -0 becomes +0, so that a mean has one spelling."""
    rounded: Float32 = x.astype(np.float32)
    rounded += np.float32(0)
    return rounded
