"""One fused update per optimizer: gradient and state in, values and state out, one pass per block.

All arrays are flat, of one length n >= 0 and one dtype. `out` may be `w`; no other two arrays may overlap. `grad` and
`w` are read only. Scalars are float64 and enter in the arrays' dtype. Where `weight_decay` is not zero the gradient is
g = grad + weight_decay * w; where it is zero, grad itself, bit for bit.
"""

from __future__ import annotations

import math

import numpy as np

from ps.kernels.walk import blocks, cast
from ps.types import Float


@np.errstate(all="ignore")
def add(w: Float, grad: Float, out: Float) -> None:
    """out = w + grad."""
    np.add(w, grad, out=out)


@np.errstate(all="ignore")
def sgd(w: Float, grad: Float, out: Float, lr: float, weight_decay: float) -> None:
    """out = w - lr * g."""
    rate, wd = cast(w, lr, weight_decay)
    for w_B, grad_B, out_B, t_B in blocks(w, grad, out, scratch=1):
        g_B = _decayed(w_B, grad_B, wd, t_B)
        np.multiply(g_B, rate, out=t_B)
        np.subtract(w_B, t_B, out=out_B)


@np.errstate(all="ignore")
def momentum(w: Float, grad: Float, velocity: Float, out: Float, lr: float, weight_decay: float, decay: float) -> None:
    """v = decay * v + g; out = w - lr * v."""
    rate, wd, keep = cast(w, lr, weight_decay, decay)
    for w_B, grad_B, v_B, out_B, t_B in blocks(w, grad, velocity, out, scratch=1):
        g_B = _decayed(w_B, grad_B, wd, t_B)
        np.multiply(v_B, keep, out=v_B)
        np.add(v_B, g_B, out=v_B)
        np.multiply(v_B, rate, out=t_B)
        np.subtract(w_B, t_B, out=out_B)


@np.errstate(all="ignore")
def nesterov(w: Float, grad: Float, velocity: Float, out: Float, lr: float, weight_decay: float, decay: float) -> None:
    """v = decay * v + g; out = w - lr * (g + decay * v)."""
    rate, wd, keep = cast(w, lr, weight_decay, decay)
    for w_B, grad_B, v_B, out_B, g2_B, t_B in blocks(w, grad, velocity, out, scratch=2):
        g_B = _decayed(w_B, grad_B, wd, g2_B)
        np.multiply(v_B, keep, out=v_B)
        np.add(v_B, g_B, out=v_B)
        np.multiply(v_B, keep, out=t_B)
        np.add(t_B, g_B, out=t_B)
        np.multiply(t_B, rate, out=t_B)
        np.subtract(w_B, t_B, out=out_B)


@np.errstate(all="ignore")
def adagrad(w: Float, grad: Float, square_sum: Float, out: Float, lr: float, weight_decay: float, eps: float) -> None:
    """G = G + g * g; out = w - lr * g / (sqrt(G) + eps)."""
    rate, wd, tiny = cast(w, lr, weight_decay, eps)
    for w_B, grad_B, sum_B, out_B, g2_B, t_B in blocks(w, grad, square_sum, out, scratch=2):
        g_B = _decayed(w_B, grad_B, wd, g2_B)
        np.multiply(g_B, g_B, out=t_B)
        np.add(sum_B, t_B, out=sum_B)
        np.multiply(g_B, rate, out=g2_B)
        _step_over_root(w_B, g2_B, sum_B, tiny, t_B, out_B)


@np.errstate(all="ignore")
def rmsprop(
    w: Float, grad: Float, mean_square: Float, out: Float, lr: float, weight_decay: float, decay: float, eps: float
) -> None:
    """G = decay * G + (1 - decay) * (g * g); out = w - lr * g / (sqrt(G) + eps)."""
    rate, wd, keep, fresh, tiny = cast(w, lr, weight_decay, decay, 1.0 - decay, eps)
    for w_B, grad_B, mean_B, out_B, g2_B, t_B in blocks(w, grad, mean_square, out, scratch=2):
        g_B = _decayed(w_B, grad_B, wd, g2_B)
        blend_square(mean_B, g_B, keep, fresh, t_B)
        np.multiply(g_B, rate, out=g2_B)
        _step_over_root(w_B, g2_B, mean_B, tiny, t_B, out_B)


@np.errstate(all="ignore")
def adam(
    w: Float, grad: Float, mean: Float, mean_square: Float, out: Float,
    lr: float, weight_decay: float, decoupled: bool,
    beta1: float, beta2: float, eps: float, correction1: float, correction2: float,
) -> None:  # fmt: skip
    """m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * (g * g)
    out = w - (lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps) [+ lr * weight_decay * w if decoupled])

    correctionX = 1 - betaX ** t. Decoupled decay does not enter g.
    """
    rate, keep1, fresh1, keep2, fresh2 = cast(w, lr / correction1, beta1, 1.0 - beta1, beta2, 1.0 - beta2)
    wd, wd_rate = cast(w, 0.0 if decoupled else weight_decay, lr * weight_decay if decoupled else 0.0)
    root, tiny = cast(w, math.sqrt(correction2), eps)
    for w_B, grad_B, m_B, v_B, out_B, g2_B, t_B in blocks(w, grad, mean, mean_square, out, scratch=2):
        g_B = _decayed(w_B, grad_B, wd, g2_B)
        np.multiply(g_B, fresh1, out=t_B)
        np.multiply(m_B, keep1, out=m_B)
        np.add(m_B, t_B, out=m_B)
        blend_square(v_B, g_B, keep2, fresh2, t_B)
        np.sqrt(v_B, out=t_B)
        np.divide(t_B, root, out=t_B)
        np.add(t_B, tiny, out=t_B)
        np.multiply(m_B, rate, out=g2_B)
        np.divide(g2_B, t_B, out=t_B)
        if wd_rate:
            np.multiply(w_B, wd_rate, out=g2_B)
            np.add(t_B, g2_B, out=t_B)
        np.subtract(w_B, t_B, out=out_B)


@np.errstate(all="ignore")
def ftrl_start(w: Float, z: Float, threshold: float, ridge: float) -> None:
    """z = -(ridge * w + sign(w) * threshold): the z from which `ftrl` reads w back when q is zero."""
    shrink, base = cast(w, threshold, ridge)
    for w_B, z_B, t_B in blocks(w, z, scratch=1):
        np.multiply(w_B, base, out=z_B)
        np.sign(w_B, out=t_B)
        np.multiply(t_B, shrink, out=t_B)
        np.add(z_B, t_B, out=z_B)
        np.negative(z_B, out=z_B)


@np.errstate(all="ignore")
def ftrl(
    w: Float, grad: Float, z: Float, q: Float, out: Float,
    lr: float, weight_decay: float, threshold: float, ridge: float,
) -> None:  # fmt: skip
    """z = z + (lr * g - (sqrt(q + g * g) - sqrt(q)) * w); q = q + g * g
    out = 0 where |z| <= threshold, else -(z - sign(z) * threshold) / (sqrt(q) + ridge)
    """
    rate, wd, shrink, base, zero = cast(w, lr, weight_decay, threshold, ridge, 0.0)
    for w_B, grad_B, z_B, q_B, out_B, g2_B, s_B, t_B in blocks(w, grad, z, q, out, scratch=3):
        g_B = _decayed(w_B, grad_B, wd, g2_B)
        np.sqrt(q_B, out=s_B)
        np.multiply(g_B, g_B, out=t_B)
        np.add(q_B, t_B, out=q_B)
        np.sqrt(q_B, out=t_B)
        np.subtract(t_B, s_B, out=s_B)
        np.multiply(s_B, w_B, out=s_B)
        np.multiply(g_B, rate, out=g2_B)
        np.subtract(g2_B, s_B, out=s_B)
        np.add(z_B, s_B, out=z_B)
        np.add(t_B, base, out=t_B)
        np.abs(z_B, out=s_B)
        np.subtract(s_B, shrink, out=s_B)
        np.maximum(s_B, zero, out=s_B)
        np.divide(s_B, t_B, out=s_B)
        np.copysign(s_B, z_B, out=s_B)
        np.subtract(zero, s_B, out=out_B)  # not `negative`: every zero comes out as +0.0


def _decayed(w_B: Float, grad_B: Float, wd: np.floating, scratch_B: Float) -> Float:
    """g = grad + wd * w in `scratch_B`, or `grad_B` itself where wd is 0: -0.0 + 0 * w would lose its sign."""
    if not wd:
        return grad_B
    np.multiply(w_B, wd, out=scratch_B)
    np.add(grad_B, scratch_B, out=scratch_B)
    return scratch_B


def blend_square(mean_B: Float, g_B: Float, keep: np.floating, fresh: np.floating, scratch_B: Float) -> None:
    """mean = keep * mean + fresh * (g * g)."""
    np.multiply(g_B, g_B, out=scratch_B)
    np.multiply(scratch_B, fresh, out=scratch_B)
    np.multiply(mean_B, keep, out=mean_B)
    np.add(mean_B, scratch_B, out=mean_B)


def _step_over_root(
    w_B: Float, step_B: Float, square_B: Float, eps: np.floating, scratch_B: Float, out_B: Float
) -> None:
    """out = w - step / (sqrt(square) + eps)."""
    np.sqrt(square_B, out=scratch_B)
    np.add(scratch_B, eps, out=scratch_B)
    np.divide(step_B, scratch_B, out=scratch_B)
    np.subtract(w_B, scratch_B, out=out_B)
