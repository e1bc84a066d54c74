"""Block length, scalar types, memory: what holds for every update whatever its formula (those: tests/unit/optim)."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ps import kernels
from ps.kernels import walk
from ps.optim import optimizer
from ps.optim.base import Step
from ps.types import Float

SPECS = (
    "add",
    "sgd:lr=0.1",
    "momentum:lr=0.1",
    "nesterov:lr=0.1",
    "delayed_nesterov:lr=0.1,period=2,c=0.1",
    "adagrad:lr=0.1",
    "rmsprop:lr=0.1",
    "adam:lr=0.1",
    "adamw:lr=0.1",
    "ftrl:lr=0.1,l1=0.3,l2=0.1",
    "dcasgd:lam=0.5+sgd:lr=0.1",
    "dcasgd:lam=0.5,mode=adaptive+momentum:lr=0.1",
)


def run(spec: str, dtype: Any, n: int = 100, steps: int = 3) -> bytes:
    rule, rng = optimizer(spec), np.random.default_rng(7)
    w_N = rng.standard_normal(n).astype(dtype)
    state = [np.zeros(n, dtype) for _ in rule.state]
    for number in range(1, steps + 1):
        grad_N, base_N = rng.standard_normal(n).astype(dtype), rng.standard_normal(n).astype(dtype)
        rule.update(w_N, grad_N, state, w_N, Step(rule.lr, 0.01, number, 0, base_N))
    return b"".join(x.tobytes() for x in (w_N, *state))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spec", SPECS)
def test_block_length_never_changes_a_bit(spec: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(spec, dtype)
    for block in (1, 3, 64, 99, 100):
        monkeypatch.setattr(walk, "BLOCK", block)
        assert run(spec, dtype) == expected


@pytest.mark.parametrize("n", [0, 1, 40, 97])
def test_block_length_never_changes_a_weighted_sum(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    grads = [np.random.default_rng(k).standard_normal(n).astype(np.float32) for k in range(3)]

    def total() -> bytes:
        out = np.empty(n, np.float32)
        kernels.weighted_sum(grads, [0.1, 0.2, 0.3], 0.6, out)
        return out.tobytes()

    expected = total()
    monkeypatch.setattr(walk, "BLOCK", 8)
    assert total() == expected


def test_a_numpy_float64_scalar_does_not_lift_the_arithmetic() -> None:
    w_N, grad_N = np.array([1.0, 2.0], np.float32), np.array([0.3, 0.7], np.float32)
    plain, lifted = np.empty_like(w_N), np.empty_like(w_N)
    kernels.sgd(w_N, grad_N, plain, 0.1, 0.01)
    kernels.sgd(w_N, grad_N, lifted, np.float64(0.1), np.float64(0.01))
    assert plain.tobytes() == lifted.tobytes()


@pytest.mark.parametrize("spec", SPECS)
def test_no_temporary_is_as_long_as_the_slice(spec: str) -> None:
    n = 1 << 20
    rule = optimizer(spec)
    arrays: list[Float] = [np.zeros(n, np.float32) for _ in range(2 + len(rule.state))]
    w_N, grad_N, *state = arrays
    rule.update(w_N, grad_N, state, w_N, Step(rule.lr, 0.01, 1, 0, grad_N))
    tracemalloc.start()
    rule.update(w_N, grad_N, state, w_N, Step(rule.lr, 0.01, 2, 0, grad_N))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 * 1024


def test_no_decay_keeps_the_sign_of_a_zero_gradient() -> None:
    w_N, grad_N = np.array([1.0], np.float32), np.array([-0.0], np.float32)
    velocity_N = np.array([-0.0], np.float32)
    kernels.momentum(w_N, grad_N, velocity_N, w_N, 0.1, 0.0, 0.9)
    assert np.signbit(velocity_N[0])


def test_no_kernel_warns_on_extreme_values() -> None:
    huge_N = np.full(3, 3e38, np.float32)
    with np.errstate(all="raise"):
        kernels.adagrad(huge_N, huge_N, np.zeros(3, np.float32), np.empty(3, np.float32), 1e300, 1.0, 1e-8)


def test_threads_share_no_scratch() -> None:
    spec, n = "dcasgd:mode=adaptive+adam:lr=0.1", 100_000
    expected = run(spec, np.float32, n)
    with ThreadPoolExecutor(4) as pool:
        assert all(got == expected for got in pool.map(lambda _: run(spec, np.float32, n), range(8)))
