"""The product of factors: one order, each operation rounded once, the same bytes however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps import kernels
from ps.kernels import dispatch, factors
from ps.types import Float32


def normal(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reference(u: Float32, v: Float32, out: Float32, weight: float) -> Float32:
    """Element by element, as the docstring says."""
    wanted = out.copy()
    for at in range(out.size) if len(u) else ():
        m, n = divmod(at, v.shape[1])
        total = u[0, m] * v[0, n]
        for k in range(1, len(u)):
            total = total + u[k, m] * v[k, n]
        wanted[at] = out[at] + np.float32(weight) * total
    return wanted


@pytest.mark.parametrize("piece", [1, 3, 16, 1 << 15])
@settings(max_examples=40, deadline=None)
@given(k=st.integers(0, 5), m=st.integers(1, 9), n=st.integers(1, 9), weight=st.sampled_from([1.0, -1.0, 0.3]))
def test_each_element_is_summed_in_order(piece: int, k: int, m: int, n: int, weight: float) -> None:
    u, v, out = normal(k, m, seed=1), normal(k, n, seed=2), normal(m * n, seed=3)
    wanted = reference(u, v, out, weight)
    before = factors.PIECE
    factors.PIECE = piece
    try:
        factors.factors_add(u, v, out, weight)
    finally:
        factors.PIECE = before
    assert out.tobytes() == wanted.tobytes()


def test_rows_alone_are_the_rows_of_the_whole() -> None:
    """What a server computes of its rows is what one server would compute of all."""
    u, v, whole = normal(7, 500, seed=1), normal(7, 300, seed=2), np.zeros(500 * 300, np.float32)
    kernels.factors_add(u, v, whole, 0.7)
    for first, last in ((0, 1), (1, 257), (257, 500)):
        part = np.zeros((last - first) * 300, np.float32)
        kernels.factors_add(np.ascontiguousarray(u[:, first:last]), v, part, 0.7)
        assert part.tobytes() == whole.reshape(500, 300)[first:last].tobytes()
    np.testing.assert_allclose(whole.reshape(500, 300), 0.7 * (u.T @ v), rtol=1e-5, atol=1e-5)


def test_one_row_is_the_outer_product_and_none_adds_nothing() -> None:
    u, v, out = normal(1, 30, seed=1), normal(1, 20, seed=2), np.zeros(600, np.float32)
    kernels.factors_add(u, v, out, 1.0)
    assert out.tobytes() == np.outer(u[0], v[0]).tobytes()
    out.fill(-0.0)
    kernels.factors_add(u[:0], v[:0], out, 1.0)
    assert np.signbit(out).all() and not out.any()


def test_native_code_that_lacks_a_kernel_is_older_than_its_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_here(x: int) -> int:
        return x

    monkeypatch.setattr(dispatch, "IN_USE", "avx2")
    with pytest.raises(ImportError, match="has no only_here: it is older than this source; `make native`"):
        dispatch.kernel(only_here)
