"""Sums, scalings and the finite test, against plain NumPy and exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps import kernels
from ps.kernels import walk
from ps.types import Float

SIZES = (0, 1, 7, 32768, 32769)
DTYPES = (np.float32, np.float64)


def normal(n: int, dtype: Any, seed: int = 0) -> Float:
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_weighted_sum_is_the_left_fold_and_one_division_in_the_dtype(n: int, dtype: Any) -> None:
    grads, weights = [normal(n, dtype, seed) for seed in range(4)], [0.1, 1.0, 33.0, 1 / 3]
    out = np.full(n, np.nan, dtype)
    kernels.weighted_sum(grads, weights, 34.4, out)
    expected = dtype(weights[0]) * grads[0]
    for weight, grad in zip(weights[1:], grads[1:], strict=True):
        expected = expected + dtype(weight) * grad
    expected = expected / dtype(34.4)
    assert out.dtype == dtype
    assert out.tobytes() == expected.tobytes()


def test_weighted_sum_may_write_into_its_first_gradient() -> None:
    a, b = normal(40, np.float32, 1), normal(40, np.float32, 2)
    apart = np.empty_like(a)
    kernels.weighted_sum([a, b], [2.0, 3.0], 5.0, apart)
    kernels.weighted_sum([a, b], [2.0, 3.0], 5.0, a)
    assert a.tobytes() == apart.tobytes()


def test_weighted_sum_keeps_the_sign_of_zero_of_a_single_gradient() -> None:
    out = np.ones(2, np.float32)
    kernels.weighted_sum([np.array([-0.0, 0.0], np.float32)], [1.0], 1.0, out)
    assert np.signbit(out).tolist() == [True, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_scale_and_divide_round_once(n: int, dtype: Any) -> None:
    x, out = normal(n, dtype), np.empty(n, dtype)
    kernels.scale_into(x, 0.1, out)
    assert out.tobytes() == (x * dtype(0.1)).tobytes()
    kernels.divide(x, 3.0, out)
    assert out.tobytes() == (x / dtype(3)).tobytes()
    kernels.divide(x, 3.0, x)
    assert out.tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 32768, 70_000])
def test_all_finite_finds_one_bad_element_anywhere(dtype: Any, bad: float, at: int) -> None:
    x = normal(70_001, dtype)
    assert kernels.all_finite(x) is True
    x[at] = bad
    assert kernels.all_finite(x) is False


def test_all_finite_is_not_misled_by_a_sum_that_overflows_or_cancels() -> None:
    assert kernels.all_finite(np.full(70_000, 3e38, np.float32))
    assert not kernels.all_finite(np.array([np.inf, -np.inf, 1.0], np.float32))
    assert kernels.all_finite(np.empty(0, np.float32))


@given(st.floats(0.0, 1.0), st.integers(0, 10_000))
def test_power_agrees_with_exact_arithmetic(base: float, exponent: int) -> None:
    got = kernels.power(base, exponent)
    if exponent <= 64:
        exact = float(Fraction(base) ** exponent)
        assert math.isclose(got, exact, rel_tol=1e-13, abs_tol=1e-300)
    assert math.isclose(got, base**exponent, rel_tol=1e-10, abs_tol=1e-300)


def test_blocks_give_views_and_scratch_of_the_same_length() -> None:
    x = np.arange(2 * walk.BLOCK + 3, dtype=np.float32)
    lengths = []
    for x_B, t_B in kernels.blocks(x, scratch=1):
        assert np.shares_memory(x_B, x) and not np.shares_memory(t_B, x) and t_B.shape == x_B.shape
        lengths.append(x_B.size)
    assert lengths == [walk.BLOCK, walk.BLOCK, 3]


def test_nested_walks_hold_scratch_of_their_own() -> None:
    x = np.zeros(4)
    for _, outer_B in kernels.blocks(x, scratch=1):
        for _, inner_B in kernels.blocks(x, scratch=1):
            assert not np.shares_memory(outer_B, inner_B)


def test_scratch_is_reused_by_later_walks() -> None:
    x = np.zeros(4)
    [(_, first_B)] = kernels.blocks(x, scratch=1)
    [(_, again_B)] = kernels.blocks(x, scratch=1)
    assert np.shares_memory(first_B, again_B)


def test_arrays_must_agree() -> None:
    with pytest.raises(AssertionError):
        list(kernels.blocks(np.zeros(3), np.zeros(4)))
    with pytest.raises(AssertionError):
        list(kernels.blocks(np.zeros(3), np.zeros(3, np.float32)))
