"""Delay compensation: plain where nothing drifted, exact on a quadratic, never more than |g|."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from ps.optim import optimizer
from ps.optim.base import Optimizer, Step
from ps.optim.dcasgd import DelayCompensated
from ps.optim.sgd import Sgd

INNER = ("sgd:lr=0.1", "momentum:lr=0.1", "adam:lr=0.1")
N = 1000


def commits(rule: Optimizer, drift: float | None = None) -> bytes:
    """Values and inner state after three commits; the base is `drift` x normal away from the values, None unknown."""
    rng = np.random.default_rng(3)
    w_N = rng.standard_normal(N).astype(np.float32)
    state = [np.zeros(N, np.float32) for _ in rule.state]
    for number in range(1, 4):
        grad_N, noise_N = rng.standard_normal((2, N)).astype(np.float32)
        grad_N[:2] = (0.0, -0.0)
        base_N = None if drift is None else w_N + np.float32(drift) * noise_N
        rule.update(w_N, grad_N, state, w_N, Step(rule.lr, 0.0, number, 2, base_N))
    inner = state[1:] if rule.state[:1] == ("dcasgd_mean_square",) else state
    return b"".join(x.tobytes() for x in (w_N, *inner))


@pytest.mark.parametrize("mode", ["constant", "adaptive"])
@pytest.mark.parametrize("inner", INNER)
def test_no_drift_no_lam_or_no_base_is_the_plain_step_to_the_bit(inner: str, mode: str) -> None:
    plain = commits(optimizer(inner))
    compensated = optimizer(f"dcasgd:lam=1,mode={mode}+{inner}")
    assert compensated.needs_base
    assert commits(compensated, drift=0.0) == plain
    assert commits(compensated, drift=None) == plain
    assert commits(optimizer(f"dcasgd:lam=0,mode={mode}+{inner}"), drift=1.0) == plain
    assert commits(compensated, drift=1.0) != plain


@pytest.mark.parametrize("mode", ["constant", "adaptive"])
def test_the_compensated_gradient_follows_the_formula(mode: str) -> None:
    rng = np.random.default_rng(4)
    rule = optimizer(f"dcasgd:lam=0.3,mode={mode}+sgd:lr=0.1")
    w, m = rng.standard_normal(N), np.zeros(N)
    w_N, state = w.copy(), [np.zeros(N) for _ in rule.state]
    for number in range(1, 5):
        g, base = rng.standard_normal(N), rng.standard_normal(N)
        rule.update(w_N, g, state, w_N, Step(0.1, 0.0, number, 1, base))
        m = 0.95 * m + 0.05 * g**2
        lam = 0.3 if mode == "constant" else 0.3 / np.sqrt(m + 1e-7)
        w = w - 0.1 * (g + np.clip(lam * g * g * (w - base), -np.abs(g), np.abs(g)))
        np.testing.assert_allclose(w_N, w, rtol=1e-12, atol=1e-13)


def test_with_the_true_curvature_a_quadratic_sees_no_delay() -> None:
    """f = h x^2 / 2, lr * h = 0.72, tau = 3: plain delayed descent diverges, compensated it is undelayed."""
    lr, tau = 0.1, 3
    for h, start in ((7.2, 1.0), (7.2, -5.0), (0.5, 2.0)):
        x = delayed = plain = start
        seen, seen_plain = deque([start] * (tau + 1), tau + 1), deque([start] * (tau + 1), tau + 1)
        for number in range(1, 20):
            base = seen[0]
            grad_N, w_N = np.array([h * base]), np.array([delayed])
            exact = DelayCompensated(Sgd(lr=lr), lam=h / float(grad_N[0]) ** 2)  # lam * g * g is the Hessian
            exact.update(w_N, grad_N, [], w_N, Step(lr, number=number, staleness=tau, base_N=np.array([base])))
            delayed, x, plain = float(w_N[0]), x - lr * h * x, plain - lr * h * seen_plain[0]
            seen.append(delayed)
            seen_plain.append(plain)
            assert delayed == pytest.approx(x, rel=1e-9, abs=1e-12)
        assert abs(plain) > abs(start) or h < 1


def test_the_correction_never_exceeds_the_gradient() -> None:
    rng = np.random.default_rng(5)
    g, far = rng.standard_normal(N).astype(np.float32), (1e6 * rng.standard_normal(N)).astype(np.float32)
    for spec in ("dcasgd:lam=1e9+sgd:lr=1", "dcasgd:lam=1e9,mode=adaptive+sgd:lr=1"):
        rule = optimizer(spec)
        out_N, w_N = np.empty(N, np.float32), np.zeros(N, np.float32)
        rule.update(w_N, g, [np.zeros(N, np.float32) for _ in rule.state], out_N, Step(1.0, base_N=far))
        moved = np.abs(out_N)  # |g + correction|
        assert (np.isclose(moved, 0) | np.isclose(moved, 2 * np.abs(g))).all()


def test_a_huge_gradient_without_drift_stays_itself() -> None:
    rule, w_N = optimizer("dcasgd:lam=0.04+sgd:lr=1"), np.zeros(1, np.float32)
    rule.update(w_N, np.array([1e30], np.float32), [], w_N, Step(1.0, base_N=np.zeros(1, np.float32)))
    assert w_N[0] == np.float32(-1e30)


def test_state_names_do_not_collide_with_those_of_the_inner_one() -> None:
    assert optimizer("dcasgd:mode=adaptive+rmsprop:lr=1").state == ("dcasgd_mean_square", "mean_square")
