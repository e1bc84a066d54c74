"""+-t where the residual has reached t: the kernels of `threshold`. Letters: ps.kernels.groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ps.kernels.groups import PIECE, corrected, lane_sums
from ps.types import Float32, UInt8

CLIP_PIECE = 32 * 1024  # elements; part of the meaning: each has a sum of its own


@np.errstate(all="ignore")
def threshold_count(grad_N: Float32, residual_N: Float32, t: float) -> int:
    """residual += grad; returns how many |residual| >= float32(t). Shapes: (n,)."""
    limit = np.float32(t)
    return sum(
        int(np.count_nonzero(np.abs(corrected(grad_N[at], residual_N[at])) >= limit)) for at in _walk(grad_N.size)
    )


@np.errstate(all="ignore")
def threshold_sparse(residual_N: Float32, t: float, body: UInt8) -> None:
    """Writes i + 1, or -(i + 1) where the residual is negative, for each |residual| >= t; takes the +-t out of it.

    Shapes: residual (n,), n < 2^31; body (4 * count,): int32.
    """
    limit, signed_K, done = np.float32(t), body.view(np.int32), 0
    for at in _walk(residual_N.size):
        c_B = residual_N[at]
        found = np.flatnonzero(np.abs(c_B) >= limit)
        positive, number = c_B[found] > 0, (found + (at.start + 1)).astype(np.int32)
        signed_K[done : done + found.size] = np.where(positive, number, -number)
        c_B[found] -= np.where(positive, limit, -limit)
        done += found.size


@np.errstate(all="ignore")
def threshold_dense(residual_N: Float32, t: float, body: UInt8) -> None:
    """Writes 1 for +t, 2 for -t, else 0, two bits each, the first in the lowest; takes the +-t out of the residual.

    Shapes: residual (n,), body (ceil(n / 4),). Unused bits are 0.
    """
    limit = np.float32(t)
    for at in _walk(residual_N.size):
        c_B = residual_N[at]
        bit_B2 = np.empty((c_B.size, 2), np.bool_)
        np.greater_equal(c_B, limit, out=bit_B2[:, 0])
        np.less_equal(c_B, -limit, out=bit_B2[:, 1])
        body[at.start // 4 : -(-at.stop // 4)] = np.packbits(bit_B2.reshape(-1), bitorder="little")
        c_B -= limit * _signs(bit_B2.view(np.uint8))


@np.errstate(all="ignore")
def threshold_sparse_add(body: UInt8, t: float, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * +-float32(t) at the coded indices, which are unique."""
    signed_K = body.view(np.int32)
    step = np.float32(weight) * np.float32(t)
    for start in range(0, signed_K.size, PIECE):
        signed = signed_K[start : start + PIECE]
        out_N[np.abs(signed) - 1] += np.where(signed > 0, step, -step)


@np.errstate(all="ignore")
def threshold_dense_add(body: UInt8, t: float, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * (+-float32(t) or 0). Shapes: body (ceil(n / 4),), out (n,)."""
    step = np.float32(weight) * np.float32(t)
    for at in _walk(out_N.size):
        packed = body[at.start // 4 : -(-at.stop // 4)]
        bit_B2 = np.unpackbits(packed, count=2 * (at.stop - at.start), bitorder="little").reshape(-1, 2)
        out_N[at] += step * _signs(bit_B2)


def threshold_dense_fault(body: UInt8, n: int) -> str:
    """What is wrong with this dense body, or ""."""
    if bool((body & (body >> np.uint8(1)) & np.uint8(0x55)).any()):
        return "code 3"
    return "bits behind the last element" if n % 4 and body[-1] >> (2 * (n % 4)) else ""


@np.errstate(all="ignore")
def threshold_clip(residual_N: Float32, limit: float) -> float:
    """Clips to +-float32(limit) in place; returns the magnitude that was cut off: one `lane_sums` per CLIP_PIECE."""
    top, mass = np.float32(limit), 0.0
    for at in _walk(residual_N.size, CLIP_PIECE):
        over = np.abs(residual_N[at])
        over -= top
        np.maximum(over, np.float32(0), out=over)
        mass += float(lane_sums(over.reshape(1, -1))[0])
        np.clip(residual_N[at], -top, top, out=residual_N[at])
    return mass


def _signs(bit_B2: UInt8) -> Float32:
    signs: Float32 = np.subtract(bit_B2[:, 0], bit_B2[:, 1], dtype=np.float32)
    return signs


def _walk(n: int, step: int | None = None) -> Iterator[slice]:
    step = step or PIECE
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
