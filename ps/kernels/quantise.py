"""Small integers and one float32 unit per block: the kernels of `int8` and `qsgd`. Letters: ps.kernels.groups.

Element = q * unit, |q| <= levels. Units are clamped so that levels * unit is finite.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ps.kernels.groups import FLOAT32_MAX, PIECE, UInt32, corrected, lane_sums, largest_magnitude, part, pieces
from ps.types import Float32, UInt8

INT8_LEVELS = 127


def unit_max(levels: int) -> np.float32:
    """The largest float32 u for which levels * u is finite."""
    unit = FLOAT32_MAX / np.float32(levels)
    with np.errstate(over="ignore"):
        return unit if np.isfinite(np.float32(levels) * unit) else np.nextafter(unit, np.float32(0))


@np.errstate(all="ignore")
def int8_encode(grad_N: Float32, residual_N: Float32 | None, block: int, body: UInt8) -> None:
    """c = grad + residual; unit = max|c| / 127; q = rint(c / unit) in [-127, 127]; residual = c - q * unit.

    Shapes: grad, residual (n,); body (4 * ceil(n / block) + n,): f32 units, int8 q. Ties round to even. Where the unit
    is 0 (all zero, or max|c| / 127 underflows), c is divided by 1, which gives q = 0.
    """
    unit_C, code_N = _split(body, grad_N.size, block)
    for at, blocks in pieces(grad_N.size, block):
        c_CR = corrected(grad_N[at], part(residual_N, at)).reshape(blocks.stop - blocks.start, -1)
        unit = np.minimum(largest_magnitude(c_CR) / np.float32(INT8_LEVELS), unit_max(INT8_LEVELS))
        q_CR = np.divide(c_CR, np.where(unit > 0, unit, np.float32(1))[:, None])
        np.rint(q_CR, out=q_CR)
        np.minimum(q_CR, np.float32(INT8_LEVELS), out=q_CR)
        np.maximum(q_CR, np.float32(-INT8_LEVELS), out=q_CR)
        code_CR = q_CR.astype(np.int8)
        unit_C[blocks] = unit
        code_N[at] = code_CR.reshape(-1).view(np.uint8)
        if residual_N is not None:
            c_CR -= np.multiply(code_CR, unit[:, None])


@np.errstate(all="ignore")
def int8_decode_add(body: UInt8, block: int, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * (q * unit). Shapes: as in `int8_encode`; out (n,)."""
    unit_C, code_N = _split(body, out_N.size, block)
    for at, blocks in pieces(out_N.size, block):
        code_CR = code_N[at].view(np.int8).reshape(blocks.stop - blocks.start, -1)
        value_CR = np.multiply(code_CR, unit_C[blocks][:, None])
        value_CR *= np.float32(weight)
        out_N[at] += value_CR.reshape(-1)


@np.errstate(all="ignore")
def qsgd_encode(
    grad_N: Float32, residual_N: Float32 | None, bucket: int, levels: int, l2: bool, key: int, body: UInt8
) -> None:
    """c = grad + residual; unit = norm / levels; a = |c| / unit; q = min(floor(a) + (uniform < a - floor(a)), levels).

    Shapes: grad, residual (n,); body (4 * ceil(n / bucket) + ceil(n * bits / 8),): f32 units, then codes
    levels + (q or, where c < 0, -q) of bits(levels) bits each, one little-endian bit string. `bucket` is a multiple
    of 8. norm: max|c|, or float32(min(sqrt(lane_sums(c * c in float64)), max float32)). Where the unit is 0, a = |c|.
    uniform: `uniforms`. residual = c - (+-q) * unit.
    """
    unit_C, packed = _split(body, grad_N.size, bucket)
    bits = bits_of_levels(levels)
    for at, buckets in pieces(grad_N.size, bucket):
        c_CR = corrected(grad_N[at], part(residual_N, at)).reshape(buckets.stop - buckets.start, -1)
        unit = np.minimum(_norm(c_CR, l2) / np.float32(levels), unit_max(levels))
        a_CR = np.abs(c_CR)
        a_CR /= np.where(unit > 0, unit, np.float32(1))[:, None]
        q_CR = np.floor(a_CR)
        a_CR -= q_CR
        q_CR += uniforms(key, at.start, at.stop).reshape(a_CR.shape) < a_CR
        np.minimum(q_CR, np.float32(levels), out=q_CR)
        code_CR = (np.copysign(q_CR, c_CR) + np.float32(levels)).astype(np.uint8)
        unit_C[buckets] = unit
        pack(code_CR.reshape(-1), bits, packed[at.start * bits // 8 : -(-at.stop * bits // 8)])
        if residual_N is not None:
            c_CR -= np.multiply(np.subtract(code_CR, levels, dtype=np.int16), unit[:, None])


@np.errstate(all="ignore")
def qsgd_decode_add(body: UInt8, bucket: int, levels: int, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * ((code - levels) * unit). Shapes: as in `qsgd_encode`; out (n,)."""
    unit_C, packed = _split(body, out_N.size, bucket)
    bits = bits_of_levels(levels)
    for at, buckets in pieces(out_N.size, bucket):
        code_N = unpack(packed[at.start * bits // 8 : -(-at.stop * bits // 8)], bits, at.stop - at.start)
        code_CR = code_N.reshape(buckets.stop - buckets.start, -1)
        value_CR = np.multiply(np.subtract(code_CR, levels, dtype=np.int16), unit_C[buckets][:, None])
        value_CR *= np.float32(weight)
        out_N[at] += value_CR.reshape(-1)


def qsgd_code_max(body: UInt8, n: int, bucket: int, levels: int) -> int:
    """The largest of the n codes, for a check before decoding; 0 when there is none."""
    bits = bits_of_levels(levels)
    packed = _split(body, n, bucket)[1]
    return max((int(code_B.max()) for code_B in _unpack_walk(packed, bits, n)), default=0)


def bits_of_levels(levels: int) -> int:
    """Bits per code: 1 + ceil(log2(levels + 1))."""
    return 1 + levels.bit_length()


def random_key(*word: int) -> int:
    """A uint32 key from unsigned 64-bit numbers: of each, the low half, then the high one is hashed in."""
    key = 0
    for half in (h for w in word for h in (w & 0xFFFFFFFF, w >> 32 & 0xFFFFFFFF)):
        key = int(_lowbias32(np.array([(key + 0x9E3779B9 & 0xFFFFFFFF) ^ half], np.uint32))[0])
    return key


def uniforms(key: int, start: int, stop: int) -> Float32:
    """(lowbias32(i ^ key) >> 8) * 2^-24 for i = start .. stop - 1 (mod 2^32): uniform in [0, 1)."""
    index = np.arange(start, stop, dtype=np.uint64).astype(np.uint32)
    index ^= np.uint32(key)
    return (_lowbias32(index) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def _lowbias32(x: UInt32) -> UInt32:
    """A uint32 hash, in place (C. Wellons, "Prospecting for Hash Functions", 2018)."""
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def pack(code_B: UInt8, bits: int, out: UInt8) -> None:
    """Codes below 2^bits, `bits` of 1..8, as one little-endian bit string; the rest of the last byte is 0."""
    code_B8 = np.zeros((-(-code_B.size // 8), 8), np.uint8)
    code_B8.reshape(-1)[: code_B.size] = code_B
    eight = np.zeros(len(code_B8), np.uint64)  # eight codes fill `bits` whole bytes
    for j in range(8):
        eight |= code_B8[:, j].astype(np.uint64) << np.uint64(j * bits)
    out[:] = eight.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)[: out.size]


def unpack(packed: UInt8, bits: int, count: int) -> UInt8:
    """The codes that `pack` has packed. Shapes: packed (ceil(count * bits / 8),) -> (count,)."""
    rows = -(-count // 8)
    whole = np.zeros(rows * bits, np.uint8)
    whole[: packed.size] = packed
    byte_B8 = np.zeros((rows, 8), np.uint8)
    byte_B8[:, :bits] = whole.reshape(rows, bits)
    eight = byte_B8.reshape(-1).view(np.uint64)
    code_B8 = np.empty((rows, 8), np.uint8)
    for j in range(8):
        code_B8[:, j] = eight >> np.uint64(j * bits) & np.uint64((1 << bits) - 1)
    return code_B8.reshape(-1)[:count]


def _unpack_walk(packed: UInt8, bits: int, n: int) -> Iterator[UInt8]:
    for start in range(0, n, PIECE):
        stop = min(start + PIECE, n)
        yield unpack(packed[start * bits // 8 : -(-stop * bits // 8)], bits, stop - start)


def _norm(c_CR: Float32, l2: bool) -> Float32:
    if not l2:
        return largest_magnitude(c_CR)
    norm = np.sqrt(lane_sums(np.square(c_CR, dtype=np.float64)))
    return np.minimum(norm, FLOAT32_MAX.astype(np.float64)).astype(np.float32)


def _split(body: UInt8, n: int, block: int) -> tuple[Float32, UInt8]:
    scales = 4 * -(-n // block)
    return body[:scales].view(np.float32), body[scales:]
