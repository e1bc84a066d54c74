"""The product of sufficient factors: what a server adds for a layer's push. M rows, N columns, K examples."""

from __future__ import annotations

import numpy as np

from ps.types import Float32

PIECE = 32 * 1024  # elements of a block; speed only: elements do not know of each other


@np.errstate(all="ignore")
def factors_add(u_KM: Float32, v_KN: Float32, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * (u_0^T v_0 + u_1^T v_1 + ...): each product and each sum rounded once, k ascending.

    The sum starts from the first product; with K = 0 nothing is added. Shapes: u (k, m), v (k, n), contiguous;
    out (m * n,), rows of n elements. Source: Chilimbi et al., OSDI 2014, section 3.3.2.
    """
    (depth, rows), columns = u_KM.shape, v_KN.shape[1]
    if not (depth and rows and columns):
        return
    out_MN, scale = out_N.reshape(rows, columns), np.float32(weight)
    width = min(columns, PIECE)
    height = min(rows, PIECE // width)
    scratch = np.empty((2, height * width), np.float32)
    for top in range(0, rows, height):
        u_KB = u_KM[:, top : top + height, None]
        for left in range(0, columns, width):
            out_BC, v_KC = out_MN[top : top + height, left : left + width], v_KN[:, left : left + width]
            sum_BC, term_BC = (flat[: out_BC.size].reshape(out_BC.shape) for flat in scratch)
            np.multiply(u_KB[0], v_KC[0], out=sum_BC)
            for k in range(1, depth):
                np.multiply(u_KB[k], v_KC[k], out=term_BC)
                np.add(sum_BC, term_BC, out=sum_BC)
            np.multiply(sum_BC, scale, out=sum_BC)
            np.add(out_BC, sum_BC, out=out_BC)
