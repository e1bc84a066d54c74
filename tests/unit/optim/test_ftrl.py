"""FTRL: its start, its zeros, and its identity with Adagrad."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.optim.base import Step
from ps.optim.ftrl import Ftrl

N = 40


def zeros(n: int = N) -> list[np.ndarray]:
    return [np.zeros(n), np.zeros(n)]


def quadratic_gradient(w_N: np.ndarray) -> np.ndarray:
    return np.linspace(0.1, 3.0, w_N.size) * (w_N - np.linspace(-1, 1, w_N.size))


@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("rates", [[0.3] * 30, [0.3 / (1 + k) for k in range(30)]])
def test_without_penalties_it_is_adagrad_even_with_stale_gradients_and_a_schedule(
    delay: int, rates: list[float]
) -> None:
    rule = Ftrl(lr=0.3, beta=0.7)
    w_N, state = np.random.default_rng(0).standard_normal(N), zeros()
    a_N, q_N, past = w_N.copy(), np.zeros(N), []
    for number, lr in enumerate(rates, start=1):
        past.append(w_N.copy())
        grad_N = quadratic_gradient(past[max(0, len(past) - 1 - delay)])
        rule.update(w_N, grad_N, state, w_N, Step(lr, number=number, staleness=delay))
        q_N += grad_N**2
        a_N -= lr * grad_N / (0.7 + np.sqrt(q_N))
        np.testing.assert_allclose(w_N, a_N, rtol=0, atol=1e-12)


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    st.floats(0, 5),
    st.floats(0, 5),
    st.floats(0.1, 2),
)
@settings(max_examples=60)
def test_the_first_step_starts_from_the_registered_values(w: list[float], l1: float, l2: float, beta: float) -> None:
    rule, w_N = Ftrl(lr=0.2, beta=beta, l1=l1, l2=l2), np.array(w)
    out_N = np.empty_like(w_N)
    rule.update(w_N, np.zeros_like(w_N), zeros(w_N.size), out_N, Step(0.2))
    np.testing.assert_allclose(out_N, w_N, rtol=1e-9, atol=1e-12)


def test_a_zero_gradient_moves_nothing_when_the_rate_changes() -> None:
    rule, w_N, state = Ftrl(lr=0.2, l1=0.5, l2=0.5), np.array([1.0, -2.0, 0.0]), zeros(3)
    for number, lr in enumerate((0.2, 0.001, 0.0, 0.4), start=1):
        rule.update(w_N, np.zeros(3), state, w_N, Step(lr, number=number))
    np.testing.assert_allclose(w_N, [1.0, -2.0, 0.0], rtol=1e-12)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_l1_holds_a_weight_at_plus_zero_until_its_gradients_outweigh_it(sign: float) -> None:
    rule, w_N, state = Ftrl(lr=0.5, l1=1.0), np.zeros(1), zeros(1)
    seen = []
    for number in range(1, 6):
        rule.update(w_N, np.array([sign * 0.3]), state, w_N, Step(0.5, number=number))
        seen.append(float(w_N[0]))
    assert seen[:3] == [0.0, 0.0, 0.0] and not np.signbit(seen[:3]).any()
    assert 0 < -sign * seen[3] < -sign * seen[4]


def test_l2_enters_the_denominator_once_and_so_shortens_the_first_steps() -> None:
    rule, w_N, state = Ftrl(lr=0.5, beta=1.0, l2=2.0), np.zeros(1), zeros(1)
    rule.update(w_N, np.array([-3.0]), state, w_N, Step(0.5))
    assert w_N[0] == pytest.approx(0.5 * 3 / (1 + 3 + 0.5 * 2), rel=1e-14)
