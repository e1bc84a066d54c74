"""Products with two thin factors: the kernels of `powersgd`. M rows, N columns, R the rank.

`factor` multiplies matrices with BLAS, so its bytes repeat on one machine with one thread count, not from machine to
machine. Factors travel; the product of factors, `product_add`, has a fixed order and the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ps.kernels.groups import FLOAT32_MAX, PIECE, Float64
from ps.types import Float32

DROP = 1e-8  # a column that loses all but this share to the columns before it depends on them, and becomes zero


@np.errstate(all="ignore")
def factor(c_MN: Float32, start_NR: Float32, p_MR: Float32, q_NR: Float32) -> None:
    """p = orthonormalise(c @ start), q = c.T @ p, in float64, then rounded; q is clipped, so that p @ q.T is finite.

    Shapes: c (m, n), start and q (n, r), p (m, r). Without float64, gradients of 1e-20 would vanish in the squares.
    """
    wide_NR, rank = start_NR.astype(np.float64), start_NR.shape[1]
    wide_MR = np.empty(p_MR.shape, np.float64)
    for rows in _rows(*c_MN.shape):
        np.matmul(c_MN[rows].astype(np.float64), wide_NR, out=wide_MR[rows])
    orthonormalise(wide_MR)
    p_MR[:] = wide_MR
    back_NR = np.zeros(q_NR.shape, np.float64)
    for rows in _rows(*c_MN.shape):
        back_NR += c_MN[rows].T.astype(np.float64) @ p_MR[rows].astype(np.float64)
    limit = float(FLOAT32_MAX) / (4 * rank)
    q_NR[:] = np.clip(back_NR, -limit, limit)


def orthonormalise(p_MR: Float64) -> None:
    """Modified Gram-Schmidt in place, twice per column, since once loses digits; dependent columns become zero."""
    for j in range(p_MR.shape[1]):
        column = p_MR[:, j]
        before = float(np.linalg.norm(column))
        for i in [*range(j), *range(j)]:
            column -= (p_MR[:, i] @ column) * p_MR[:, i]
        norm = float(np.linalg.norm(column))
        column[:] = column / norm if norm > DROP * before else 0.0


@np.errstate(all="ignore")
def product_add(p_MR: Float32, q_NR: Float32, out_MN: Float32, weight: float) -> None:
    """out += float32(weight) * (p_0 q_0^T + p_1 q_1^T + ...): each product and each sum rounded once, in rank order."""
    for rows in _rows(*out_MN.shape):
        sum_BN = p_MR[rows, 0, None] * q_NR[None, :, 0]
        for j in range(1, p_MR.shape[1]):
            sum_BN += p_MR[rows, j, None] * q_NR[None, :, j]
        sum_BN *= np.float32(weight)
        out_MN[rows] += sum_BN


@np.errstate(all="ignore")
def scaled_add(x_N: Float32, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * x. Shapes: (n,)."""
    for start in range(0, x_N.size, PIECE):
        at = slice(start, start + PIECE)
        out_N[at] += np.float32(weight) * x_N[at]


@np.errstate(all="ignore")
def product_bound(p_MR: Float32, q_NR: Float32) -> float:
    """No element of p @ q.T is larger in magnitude, rounding included; infinite or NaN factors give no finite bound."""
    p_R = np.abs(p_MR).max(axis=0, initial=0).astype(np.float64)
    q_R = np.abs(q_NR).max(axis=0, initial=0).astype(np.float64)
    return float(p_R @ q_R) * (1 + 2**-20)


def _rows(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, PIECE // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
