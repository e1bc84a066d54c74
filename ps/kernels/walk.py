"""Walks flat arrays block by block, so that every intermediate value stays in the cache and none is n long.

Shape letters: `_N` elements of the whole array, `_B` elements of the block at hand.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from ps.types import Float

BLOCK = 32 * 1024  # elements; speed only: element-wise kernels give the same bytes for any block length


class _Pool(threading.local):
    """Scratch blocks of this thread that nobody uses now, by dtype and length."""

    def __init__(self) -> None:
        self.free: dict[tuple[np.dtype[np.floating], int], list[Float]] = {}


_pool = _Pool()


def blocks(*array_N: Float, scratch: int = 0) -> Iterator[tuple[Float, ...]]:
    """Views of the next block of each array, then `scratch` uninitialised arrays as long as that block.

    The arrays are flat and agree in length and dtype. Walks may nest: each holds scratch of its own until it ends.
    """
    n, dtype = array_N[0].size, array_N[0].dtype
    assert all(x.shape == (n,) and x.dtype == dtype for x in array_N), [(x.shape, x.dtype) for x in array_N]
    free = _pool.free.setdefault((dtype, BLOCK), [])
    rows = [free.pop() if free else np.empty(BLOCK, dtype) for _ in range(scratch)]
    try:
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            yield *(x[start:stop] for x in array_N), *(row[: stop - start] for row in rows)
    finally:
        free.extend(rows)


def cast(like: Float, *value: float) -> tuple[np.floating, ...]:
    """The float64 scalars in the dtype of `like`, the form in which they enter every array operation.

    A NumPy float64 scalar would otherwise lift a float32 operation to float64, and another CPU need not do the same.
    """
    return tuple(like.dtype.type(v) for v in value)
