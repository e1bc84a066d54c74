"""Each update against its formula, written out in plain float64 NumPy, over several commits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ps.errors import ConfigError
from ps.optim import optimizer
from ps.optim.base import Optimizer, Step

F64 = NDArray[np.float64]
Oracle = Callable[[F64, F64, dict[str, F64], float, float, int], F64]  # w, g, state, lr, wd, t -> w
SIZES = (0, 1, 7, 32768, 32769)


def add(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    return w + g


def sgd(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    return w - lr * (g + wd * w)


def momentum(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    s["velocity"] = 0.8 * s["velocity"] + g + wd * w
    return w - lr * s["velocity"]


def nesterov(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    s["velocity"] = 0.8 * s["velocity"] + g + wd * w
    return w - lr * (g + wd * w + 0.8 * s["velocity"])


def delayed_nesterov(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    """As in the paper, whose a is period * lr here: the model has divided it by the number of workers."""
    period, c, mu = 3, 0.2, 0.8
    a, g = period * lr, g + wd * w
    s["gathered"] = s["gathered"] + g
    if t % period:
        return w - a * (c * mu * s["velocity"] + g / period)
    s["velocity"] = mu * s["velocity"] + s["gathered"] / period
    s["gathered"] = 0 * s["gathered"]
    return w - a * ((1 - c * period + c) * mu * s["velocity"] + g / period)


def adagrad(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    g = g + wd * w
    s["square_sum"] = s["square_sum"] + g**2
    return w - lr * g / (s["square_sum"] ** 0.5 + 1e-3)


def rmsprop(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    g = g + wd * w
    s["mean_square"] = 0.8 * s["mean_square"] + 0.2 * g**2
    return w - lr * g / (s["mean_square"] ** 0.5 + 1e-3)


def adam(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    g = g + wd * w
    s["mean"] = 0.7 * s["mean"] + 0.3 * g
    s["mean_square"] = 0.95 * s["mean_square"] + 0.05 * g**2
    return w - lr * (s["mean"] / (1 - 0.7**t)) / ((s["mean_square"] / (1 - 0.95**t)) ** 0.5 + 1e-3)


def adamw(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    return adam(w, g, s, lr, 0.0, t) - lr * wd * w


def ftrl(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    """The paper's scale: z without alpha, alpha = lr."""
    beta, l1, l2 = 0.5, 0.2, 0.1
    g = g + wd * w
    z = s["z"] / lr if t > 1 else -((beta / lr + l2) * w + np.sign(w) * l1)
    z = z + g - (np.sqrt(s["q"] + g**2) - np.sqrt(s["q"])) / lr * w
    s["z"], s["q"] = z * lr, s["q"] + g**2
    return np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / ((beta + np.sqrt(s["q"])) / lr + l2))


def onebit_adam(w: F64, g: F64, s: dict[str, F64], lr: float, wd: float, t: int) -> F64:
    """Two commits of adam, then its second moment stays."""
    if t <= 2:
        return adam(w, g, s, lr, wd, t)
    s["mean"] = 0.7 * s["mean"] + 0.3 * (g + wd * w)
    return w - lr * s["mean"] / (np.sqrt(s["mean_square"]) + 1e-3)


RULES: dict[str, Oracle] = {
    "add": add,
    "sgd:lr=0.05": sgd,
    "momentum:lr=0.05,decay=0.8": momentum,
    "nesterov:lr=0.05,decay=0.8": nesterov,
    "delayed_nesterov:lr=0.05,decay=0.8,period=3,c=0.2": delayed_nesterov,
    "adagrad:lr=0.05,eps=1e-3": adagrad,
    "rmsprop:lr=0.05,decay=0.8,eps=1e-3": rmsprop,
    "adam:lr=0.05,beta1=0.7,beta2=0.95,eps=1e-3": adam,
    "adamw:lr=0.05,beta1=0.7,beta2=0.95,eps=1e-3": adamw,
    "onebit_adam:lr=0.05,beta1=0.7,beta2=0.95,eps=1e-3,warmup=2": onebit_adam,
    "ftrl:lr=0.05,beta=0.5,l1=0.2,l2=0.1": ftrl,
}


def run(rule: Optimizer, n: int, dtype: Any, wd: float, oracle: Oracle) -> tuple[list[Any], list[F64]]:
    """Values and state after five commits, from the optimizer and from the oracle."""
    rng = np.random.default_rng(n)
    w_N = rng.standard_normal(n).astype(dtype)
    got = [w_N, *(np.zeros(n, dtype) for _ in rule.state)]
    w, s = w_N.astype(np.float64), {name: np.zeros(n) for name in rule.state}
    for t in range(1, 6):
        grad_N = rng.standard_normal(n).astype(dtype)
        rule.update(got[0], grad_N, got[1:], got[0], Step(rule.lr, wd, t))
        w = oracle(w, grad_N.astype(np.float64), s, rule.lr, wd, t)
    return got, [w, *s.values()]


@pytest.mark.parametrize("wd", [0.0, 0.03])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("spec", RULES)
def test_five_commits_follow_the_formula(spec: str, n: int, wd: float) -> None:
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 2e-5)):
        got, expected = run(optimizer(spec), n, dtype, wd if spec != "add" else 0.0, RULES[spec])
        for a, b in zip(got, expected, strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_adams_first_step_moves_by_the_rate_against_the_sign() -> None:
    rule = optimizer("adam:lr=0.01")
    w_N = np.zeros(5, np.float32)
    grad_N = np.array([-300.0, -1e-3, 1e-3, 1.0, 1e9], np.float32)
    rule.update(w_N, grad_N, [np.zeros(5, np.float32), np.zeros(5, np.float32)], w_N, Step(rule.lr))
    np.testing.assert_allclose(w_N, -0.01 * np.sign(grad_N), rtol=1e-4)


def test_adam_couples_its_decay_and_adamw_does_not() -> None:
    w_N, zero_N = np.ones(1), np.zeros(1)
    outs = {}
    for name in ("adam", "adamw"):
        out_N = np.empty(1)
        optimizer(f"{name}:lr=0.1").update(w_N, zero_N, [np.zeros(1), np.zeros(1)], out_N, Step(0.1, weight_decay=0.5))
        outs[name] = float(out_N[0])
    assert outs["adam"] == pytest.approx(1 - 0.1, rel=1e-6)  # a whole sign step, however small the decay
    assert outs["adamw"] == pytest.approx(1 - 0.1 * 0.5, rel=1e-12)


@pytest.mark.parametrize("wd", [0.0, 0.1])
def test_onebit_adam_keeps_its_second_moment_and_what_never_had_a_gradient(wd: float) -> None:
    """An unused row has v = 0: the noise of a one-bit code must not move it without bound."""
    rule = optimizer("onebit_adam:lr=0.1,warmup=1")
    w_N, state = np.ones(4, np.float32), [np.zeros(4, np.float32), np.zeros(4, np.float32)]
    rule.update(w_N, np.array([1, 0, -2, 0], np.float32), state, w_N, Step(0.1))
    frozen, unused = state[1].tobytes(), w_N[[1, 3]].tobytes()
    for t in range(2, 6):
        rule.update(w_N, np.full(4, 0.5, np.float32), state, w_N, Step(0.1, wd, t))
    assert state[1].tobytes() == frozen
    assert w_N[[1, 3]].tobytes() == unused and np.isfinite(w_N).all()


def test_nesterov_without_momentum_is_sgd_to_the_bit() -> None:
    rng = np.random.default_rng(1)
    w_N, grad_N = rng.standard_normal(50).astype(np.float32), rng.standard_normal(50).astype(np.float32)
    a_N, b_N = np.empty_like(w_N), np.empty_like(w_N)
    optimizer("sgd:lr=0.7").update(w_N, grad_N, [], a_N, Step(0.7))
    optimizer("nesterov:lr=0.7,decay=0").update(w_N, grad_N, [np.zeros_like(w_N)], b_N, Step(0.7))
    assert a_N.tobytes() == b_N.tobytes()


@pytest.mark.parametrize("period", [1, 2, 5])
def test_a_period_of_delayed_nesterov_is_one_step_of_nesterov_on_the_mean(period: int) -> None:
    rng, a = np.random.default_rng(period), 0.7
    delayed, plain = optimizer(f"delayed_nesterov:lr={a},decay=0.9,period={period}"), optimizer(f"nesterov:lr={a}")
    w_N = rng.standard_normal(20)
    want_N, state, velocity_N = w_N.copy(), [np.zeros(20), np.zeros(20)], np.zeros(20)
    for start in range(0, 4 * period, period):
        grads = rng.standard_normal((period, 20))
        for number, grad_N in enumerate(grads, start + 1):
            delayed.update(w_N, grad_N, state, w_N, Step(a / period, 0.0, number))
        plain.update(want_N, grads.mean(0), [velocity_N], want_N, Step(a))
        np.testing.assert_allclose(w_N, want_N, rtol=1e-12, atol=1e-12)


def test_delayed_nesterov_spreads_no_more_momentum_than_there_is() -> None:
    with pytest.raises(ConfigError, match=r"c: expected at most 1 / period = 0\.25, got 0\.3"):
        optimizer("delayed_nesterov:lr=0.7,period=4,c=0.3")
    with pytest.raises(ConfigError, match="delayed_nesterov: period: expected a value, got none"):
        optimizer("delayed_nesterov:lr=0.7")


def test_sgd_is_additive_where_float32_is_exact() -> None:
    rng = np.random.default_rng(2)
    grads = rng.integers(-64, 64, (6, 30)).astype(np.float32) / 32
    rule = optimizer("sgd:lr=0.25")
    results = set()
    for order in (range(6), reversed(range(6)), (3, 1, 5, 0, 2, 4)):
        w_N = np.ones(30, np.float32)
        for k in order:
            rule.update(w_N, grads[k], [], w_N, Step(0.25))
        results.add(w_N.tobytes())
    assert len(results) == 1


def test_the_rate_and_the_decay_of_the_commit_count_not_those_of_the_optimizer() -> None:
    rule = replace(optimizer("sgd:lr=0.1"), weight_decay=5.0)
    w_N = np.ones(1)
    rule.update(w_N, np.ones(1), [], w_N, Step(lr=0.5, weight_decay=0.0))
    assert w_N[0] == 0.5
