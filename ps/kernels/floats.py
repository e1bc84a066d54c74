"""Two bytes per element: the kernels of `fp16` and `bf16`. Letters: ps.kernels.groups."""

from __future__ import annotations

import numpy as np

from ps.kernels.groups import PIECE, UInt32, bits_of, corrected, largest_magnitude, part, pieces
from ps.types import Array, Float32, UInt8

HALF_BLOCK = 2048  # elements per scale
HALF_MAX = np.float32(32752)  # the largest float16 below 2^15: times the largest scale, 2^113, it is finite
HALF_BITS_MAX = 0x77FF  # of it
SCALE_BITS_MIN, SCALE_BITS_MAX = 0x00800000, 240 << 23  # 2^-126, 2^113


@np.errstate(all="ignore")
def half_encode(grad_N: Float32, residual_N: Float32 | None, block: int, body: UInt8) -> None:
    """c = grad + residual; h = float16(c * (1 / scale)), ties to even, |h| <= HALF_MAX; residual = c - h * scale.

    Shapes: grad, residual (n,); body (4 * ceil(n / block) + 2 * n,): f32 scales, float16 h. scale = 2^(e - 14), where
    2^e <= max|c| < 2^(e + 1), at least 2^-126: a power of two, so that neither direction rounds a normal number.
    """
    scale_C, half_N = split_halves(body, grad_N.size, block)
    for at, blocks in pieces(grad_N.size, block):
        c_CR = corrected(grad_N[at], part(residual_N, at)).reshape(blocks.stop - blocks.start, -1)
        scale = (bits_of(largest_magnitude(c_CR)) & np.int32(0x7F800000)).view(np.float32) * np.float32(2**-14)
        scale = np.maximum(scale, np.float32(2**-126))
        value_CR = c_CR * (np.float32(1) / scale)[:, None]
        np.minimum(value_CR, HALF_MAX, out=value_CR)
        np.maximum(value_CR, -HALF_MAX, out=value_CR)
        half_CR = value_CR.astype(np.float16)
        scale_C[blocks] = scale
        half_N[at] = half_CR.reshape(-1)
        if residual_N is not None:
            c_CR -= half_CR.astype(np.float32) * scale[:, None]


@np.errstate(all="ignore")
def half_decode_add(body: UInt8, block: int, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * (h * scale). Shapes: as in `half_encode`; out (n,)."""
    scale_C, half_N = split_halves(body, out_N.size, block)
    for at, blocks in pieces(out_N.size, block):
        value_CR = half_N[at].astype(np.float32).reshape(blocks.stop - blocks.start, -1)
        value_CR *= scale_C[blocks][:, None]
        value_CR *= np.float32(weight)
        out_N[at] += value_CR.reshape(-1)


def split_halves(body: UInt8, n: int, block: int) -> tuple[Float32, Array]:
    """The scales (float32) and the halves (float16) of a body, as views."""
    scales = 4 * -(-n // block)
    return body[:scales].view(np.float32), body[scales:].view(np.float16)


@np.errstate(all="ignore")
def bfloat_encode(grad_N: Float32, residual_N: Float32 | None, body: UInt8) -> None:
    """c = grad + residual; h = the upper 16 bits of c, rounded to nearest even, never to infinity; residual = c - h.

    Shapes: grad, residual (n,); body (2 * n,). c is finite: NaN would need a case of its own.
    """
    half_N = body.view(np.uint16)
    for start in range(0, grad_N.size, PIECE):
        at = slice(start, start + PIECE)
        c_B = corrected(grad_N[at], part(residual_N, at))
        bits: UInt32 = c_B.view(np.uint32)
        high = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        high -= (high & np.uint32(0x7FFF)) == np.uint32(0x7F80)
        half_N[at] = high
        if residual_N is not None:
            c_B -= (high << np.uint32(16)).view(np.float32)


@np.errstate(all="ignore")
def bfloat_decode_add(body: UInt8, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * h. Shapes: body (2 * n,), out (n,)."""
    half_N = body.view(np.uint16)
    for start in range(0, out_N.size, PIECE):
        at = slice(start, start + PIECE)
        out_N[at] += np.float32(weight) * (half_N[at].astype(np.uint32) << np.uint32(16)).view(np.float32)


def bits_max(half_N: Array) -> int:
    """The largest 16-bit pattern without its sign, for a check before decoding; 0 when there is none."""
    half = half_N.view(np.uint16)
    return max((int((half[i : i + PIECE] & np.uint16(0x7FFF)).max()) for i in range(0, half.size, PIECE)), default=0)
