"""Gradients corrected for the drift of the values since a worker read them (DC-ASGD).

Written as a factor on g, out = g * (1 + f): no drift gives f = 0 and exactly g, g * g is never formed and so never
overflows here, and |f| <= 1 is the clip of the correction to |g|. `out` may be none of the inputs.
"""

from __future__ import annotations

import numpy as np

from ps.kernels.updates import blend_square
from ps.kernels.walk import blocks, cast
from ps.types import Float


@np.errstate(all="ignore")
def compensate(w: Float, grad: Float, base: Float, out: Float, lam: float) -> None:
    """out = g * (1 + clip(lam * g * (w - base), -1, 1)). Shapes: (n,)."""
    lam_, one = cast(w, lam, 1.0)
    for w_B, g_B, base_B, out_B in blocks(w, grad, base, out):
        np.subtract(w_B, base_B, out=out_B)
        np.multiply(out_B, lam_, out=out_B)
        _apply_factor(g_B, out_B, one)


@np.errstate(all="ignore")
def compensate_adaptive(
    w: Float, grad: Float, base: Float, mean_square: Float, out: Float, lam: float, decay: float, eps: float
) -> None:
    """m = decay * m + (1 - decay) * (g * g); then `compensate` with lam / sqrt(m + eps). Shapes: (n,)."""
    lam_, keep, fresh, tiny, one = cast(w, lam, decay, 1.0 - decay, eps, 1.0)
    for w_B, g_B, base_B, m_B, out_B, t_B in blocks(w, grad, base, mean_square, out, scratch=1):
        blend_square(m_B, g_B, keep, fresh, t_B)
        np.add(m_B, tiny, out=t_B)
        np.sqrt(t_B, out=t_B)
        np.subtract(w_B, base_B, out=out_B)
        np.multiply(out_B, lam_, out=out_B)
        np.divide(out_B, t_B, out=out_B)
        _apply_factor(g_B, out_B, one)


def _apply_factor(g_B: Float, out_B: Float, one: np.floating) -> None:
    """out = g * (1 + clip(out * g, -1, 1))."""
    np.multiply(out_B, g_B, out=out_B)
    np.minimum(out_B, one, out=out_B)
    np.maximum(out_B, -one, out=out_B)
    np.add(out_B, one, out=out_B)
    np.multiply(out_B, g_B, out=out_B)
