"""One bit per element and the levels of its group: the kernels of `onebit` and `sign`. Letters: ps.kernels.groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ps.kernels.groups import corrected, float32_of, lane_sums, part, pieces, select
from ps.types import Array, Bool, Float32, UInt8


def words(group: int) -> int:
    """u32 words that hold one bit per element."""
    return -(-group // 32)


@np.errstate(all="ignore")
def onebit_encode(
    grad_N: Float32, residual_N: Float32 | None, group: int, mean_threshold: bool, records: UInt8
) -> None:
    """c = grad + residual; b = c >= threshold; v1, v0 = mean of c where b is 1, 0 (0 if none); residual = c - v_b.

    Shapes: grad, residual (n,); records (ceil(n / group) * (8 + 4 * words(group)),): f32 v0, f32 v1, bits. The
    threshold is 0 or float32(lane_sums(c) / count). Each mean is float32(lane_sums(c masked by zeros) / count).
    """
    record_C = records.reshape(-1, 8 + 4 * words(group))
    for at, groups in pieces(grad_N.size, group):
        record = record_C[groups]
        c_CR = corrected(grad_N[at], part(residual_N, at)).reshape(len(record), -1)
        bit_CR = c_CR >= (_mean(c_CR)[:, None] if mean_threshold else np.float32(0))
        ones_C = np.add.reduce(bit_CR.view(np.uint8), axis=1, dtype=np.uint32)
        high_C = _mean(c_CR * bit_CR, ones_C)
        low_C = _mean(c_CR * ~bit_CR, c_CR.shape[1] - ones_C)
        _floats(record, 0)[:] = low_C[:, None]
        _floats(record, 4)[:] = high_C[:, None]
        _put_bits(record[:, 8:], bit_CR)
        if residual_N is not None:
            c_CR -= select(bit_CR, low_C, high_C)


@np.errstate(all="ignore")
def onebit_decode_add(records: UInt8, group: int, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * v_b. Shapes: as in `onebit_encode`; out (n,)."""
    record_C = records.reshape(-1, 8 + 4 * words(group))
    for at, groups in pieces(out_N.size, group):
        record = record_C[groups]
        level_C2 = np.float32(weight) * _floats(record, 0, 2)
        bit_CR = _bits(record[:, 8:], (at.stop - at.start) // len(record))
        out_N[at] += select(bit_CR, level_C2[:, 0], level_C2[:, 1]).reshape(-1)


@np.errstate(all="ignore")
def onebit_mean(records: Sequence[UInt8], weights: Sequence[float], total: float, group: int, out_N: Float32) -> None:
    """out = (0 + float32(w0) * v_b of the first frame + float32(w1) * v_b of the second + ...) / float32(total).

    A left fold in the given order from +0; every product, every sum and the division rounds once. Shapes: as in
    `onebit_decode_add`, one weight per frame. Native, `out` is written once and never read.
    """
    out_N.fill(0.0)
    for frame, weight in zip(records, weights, strict=True):
        onebit_decode_add(frame, group, out_N, weight)
    np.divide(out_N, np.float32(total), out=out_N)


@np.errstate(all="ignore")
def onebit_move(w_N: Float32, view_N: Float32, group: int, mean_threshold: bool, records: UInt8) -> bool:
    """Encodes w - view into `records`, without a residual, and adds what they decode to to the view.

    False where an element of w - view is not finite: `view` and `records` are then of no use, written in part. Shapes:
    w, view (n,), records as in `onebit_encode`. Native, both arrays are read once from memory.
    """
    record_C = records.reshape(-1, 8 + 4 * words(group))
    for at, groups in pieces(w_N.size, group):
        left_B, part_of_records = w_N[at] - view_N[at], record_C[groups].reshape(-1)
        onebit_encode(left_B, None, group, mean_threshold, part_of_records)
        if not onebit_finite(part_of_records, group):  # a level is finite exactly if all of its elements are
            return False
        onebit_decode_add(part_of_records, group, view_N[at], 1.0)
    return True


def onebit_finite(records: UInt8, group: int) -> bool:
    """Whether no v0, v1 is NaN or infinite. Shape: as in `onebit_encode`."""
    return bool(np.isfinite(_floats(records.reshape(-1, 8 + 4 * words(group)), 0, 2)).all())


@np.errstate(all="ignore")
def sign_encode(grad_N: Float32, residual_N: Float32 | None, group: int, records: UInt8) -> None:
    """c = grad + residual; b = c >= 0; scale = float32(lane_sums(|c|) / count); residual = c - (b ? scale : -scale).

    Shapes: grad, residual (n,); records (ceil(n / group) * (4 + 4 * words(group)),): f32 scale, bits.
    """
    record_C = records.reshape(-1, 4 + 4 * words(group))
    for at, groups in pieces(grad_N.size, group):
        record = record_C[groups]
        c_CR = corrected(grad_N[at], part(residual_N, at)).reshape(len(record), -1)
        bit_CR = c_CR >= np.float32(0)
        scale_C = _mean(np.abs(c_CR))
        _floats(record, 0)[:] = scale_C[:, None]
        _put_bits(record[:, 4:], bit_CR)
        if residual_N is not None:
            c_CR -= select(bit_CR, -scale_C, scale_C)


@np.errstate(all="ignore")
def sign_decode_add(records: UInt8, group: int, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * (b ? scale : -scale). Shapes: as in `sign_encode`; out (n,)."""
    record_C = records.reshape(-1, 4 + 4 * words(group))
    for at, groups in pieces(out_N.size, group):
        record = record_C[groups]
        scale_C = np.float32(weight) * _floats(record, 0)[:, 0]
        bit_CR = _bits(record[:, 4:], (at.stop - at.start) // len(record))
        out_N[at] += select(bit_CR, -scale_C, scale_C).reshape(-1)


def _mean(x_CR: Float32, count_C: Array | None = None) -> Float32:
    count = x_CR.shape[1] if count_C is None else np.maximum(count_C, 1)
    return float32_of(lane_sums(x_CR) / count)


def _floats(record: UInt8, offset: int, count: int = 1) -> Float32:
    return record[:, offset : offset + 4 * count].view(np.float32)


def _put_bits(field: UInt8, bit_CR: Bool) -> None:
    packed = np.packbits(bit_CR, axis=1, bitorder="little")
    field[:, : packed.shape[1]] = packed
    field[:, packed.shape[1] :] = 0


def _bits(field: UInt8, length: int) -> UInt8:
    return np.unpackbits(field, axis=1, count=length, bitorder="little")
