"""Sums, scalings and tests of flat arrays: what a commit does before the optimizer has its turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ps.kernels.walk import BLOCK, blocks, cast
from ps.types import Float


@np.errstate(all="ignore")
def weighted_sum(grads: Sequence[Float], weights: Sequence[float], total: float, out: Float) -> None:
    """out = (w0 * g0 + w1 * g1 + w2 * g2 + ...) / total: a left fold in the given order, then a true division.

    Shapes: each gradient and `out` (n,), one weight per gradient, at least one. Weights and total are cast to the dtype
    first; every product, every sum and the division rounds once. `out` may be the first gradient, no other one.
    """
    assert len(grads) == len(weights) > 0
    *scale, divisor = cast(out, *weights, total)
    for out_B, first_B, *rest in blocks(out, *grads, scratch=1):
        *grads_B, term_B = rest
        np.multiply(first_B, scale[0], out=out_B)
        for grad_B, factor in zip(grads_B, scale[1:], strict=True):
            np.multiply(grad_B, factor, out=term_B)
            np.add(out_B, term_B, out=out_B)
        np.divide(out_B, divisor, out=out_B)


@np.errstate(all="ignore")
def scale_into(x: Float, factor: float, out: Float) -> None:
    """out = x * factor. Shapes: (n,); `out` may be `x`."""
    np.multiply(x, cast(x, factor)[0], out=out)


@np.errstate(all="ignore")
def divide(x: Float, total: float, out: Float) -> None:
    """out = x / total, a true division: a reciprocal would round twice. Shapes: (n,); `out` may be `x`."""
    np.divide(x, cast(x, total)[0], out=out)


@np.errstate(all="ignore")
def all_finite(x: Float) -> bool:
    """Whether no element is NaN or infinite. Shape: (n,).

    A finite sum proves it in one pass; a sum that is not may have overflowed, then every element is looked at.
    """
    if np.isfinite(np.add.reduce(x)):
        return True
    return all(bool(np.isfinite(x[start : start + BLOCK]).all()) for start in range(0, x.size, BLOCK))


def sum_of_squares(x: Float) -> float:
    """The squared 2-norm, in float64 whatever the dtype, block by block."""
    return sum(float(np.sum(np.square(x_B, dtype=np.float64))) for (x_B,) in blocks(x))


def power(base: float, exponent: int) -> float:
    """base ** exponent by square and multiply: the same bits on every machine, which libm's pow does not promise."""
    assert exponent >= 0
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
