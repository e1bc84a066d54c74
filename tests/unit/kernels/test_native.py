"""Every native kernel gives the bytes of its NumPy twin, on every dispatch target that this machine runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.errors import ConfigError
from ps.kernels import basic, compensation, dispatch, updates
from ps.types import Float

native = dispatch._native
pytestmark = pytest.mark.skipif(native is None, reason="the native kernels are not built: `make native`")

LENGTHS = st.one_of(st.integers(0, 70), st.sampled_from([4095, 4096, 4097, 33000]))
DTYPES = st.sampled_from([np.float32, np.float64])
DECAY = st.sampled_from([0.0, 0.01])
REAL = st.floats(1e-6, 10.0)
PART = st.floats(0.0, 0.999)


@pytest.fixture(params=native.available() if native is not None else [])
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each dispatch target in turn; afterwards the one that was in use."""
    before = native.in_use()
    native.use(request.param)
    yield request.param
    native.use(before)


def numbers(n: int, dtype: type[np.floating[Any]], seed: int) -> Float:
    """Normal numbers of all magnitudes, some zeros of both signs, subnormals and huge ones among them."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    x = (rng.standard_normal(n) * 10.0 ** rng.integers(-6, 4, n)).astype(dtype)
    special = np.array([0.0, -0.0, info.tiny, -info.smallest_subnormal, info.max, -info.max, 1.0], dtype)
    chosen = rng.random(n) < 0.1
    x[chosen] = rng.choice(special, int(chosen.sum()))
    return x


def same(twin: Callable[..., Any], *args: Any) -> None:
    """Calls twin and native on copies; results and all arrays are equal, byte for byte (a NaN is a NaN)."""
    theirs, ours = copy.deepcopy(args), copy.deepcopy(args)
    expected, got = twin(*theirs), getattr(native, twin.__name__)(*ours)
    assert expected == got
    for want, have in zip(theirs, ours, strict=True):
        if isinstance(want, np.ndarray):
            nan = np.isnan(want)
            assert np.array_equal(nan, np.isnan(have))
            assert want[~nan].tobytes() == have[~nan].tobytes(), twin.__name__


@settings(max_examples=60, deadline=None)
@given(n=LENGTHS, dtype=DTYPES, seed=st.integers(0, 1 << 30), lr=REAL, wd=DECAY, keep=PART, eps=st.just(1e-8))
def check_updates(
    n: int, dtype: type[np.floating[Any]], seed: int, lr: float, wd: float, keep: float, eps: float
) -> None:
    w, g, a = (numbers(n, dtype, seed + i) for i in range(3))
    square, out = np.abs(numbers(n, dtype, seed + 3)), np.zeros(n, dtype)
    same(updates.add, w, g, out)
    same(updates.sgd, w, g, out, lr, wd)
    same(updates.momentum, w, g, a, out, lr, wd, keep)
    same(updates.nesterov, w, g, a, out, lr, wd, keep)
    same(updates.adagrad, w, g, square, out, lr, wd, eps)
    same(updates.rmsprop, w, g, square, out, lr, wd, keep, eps)
    for decoupled in (False, True):
        same(updates.adam, w, g, a, square, out, lr, wd, decoupled, keep, 0.999, eps, 1.0 - keep, 0.001)
    same(updates.ftrl_start, w, a, keep, lr)
    same(updates.ftrl, w, g, a, square, out, lr, wd, keep, lr)
    same(compensation.compensate, w, g, a, out, lr)
    same(compensation.compensate_adaptive, w, g, a, square, out, lr, keep, 1e-3)


@settings(max_examples=60, deadline=None)
@given(n=LENGTHS, dtype=DTYPES, seed=st.integers(0, 1 << 30), count=st.integers(1, 5), bad=st.integers(-1, 1 << 20))
def check_basic(n: int, dtype: type[np.floating[Any]], seed: int, count: int, bad: int) -> None:
    grads = [numbers(n, dtype, seed + i) for i in range(count)]
    out = np.zeros(n, dtype)
    for total in (1.0, 3.7):
        same(basic.weighted_sum, grads, [1.0 + 0.3 * i for i in range(count)], total, out)
    same(basic.scale_into, grads[0], 0.3, out)
    same(basic.divide, grads[0], 3.0, out)
    if bad >= 0 and n:
        grads[0][bad % n] = (np.nan, np.inf, -np.inf)[bad % 3]
    same(basic.all_finite, grads[0])


def test_updates_give_the_bytes_of_their_twins(target: str) -> None:
    check_updates()


def test_sums_and_tests_give_the_bytes_of_their_twins(target: str) -> None:
    check_basic()


def test_out_may_be_w(target: str) -> None:
    w, g = numbers(5000, np.float32, 1), numbers(5000, np.float32, 2)
    expected = np.empty_like(w)
    updates.sgd(w, g, expected, 0.1, 0.01)
    native.sgd(w, g, w, 0.1, 0.01)
    assert w.tobytes() == expected.tobytes()


def test_arrays_of_different_length_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match="one length"):
        native.sgd(np.ones(3), np.ones(4), np.ones(3), 0.1, 0.0)
    with pytest.raises(TypeError):
        native.sgd(np.ones(3, np.float32), np.ones(3), np.ones(3), 0.1, 0.0)


def test_an_unknown_target_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PS_KERNELS", "avx1024")
    with pytest.raises(ConfigError, match=r"PS_KERNELS: expected one of .*twin.*, got 'avx1024'"):
        dispatch._choose()
