"""Staleness-aware rates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.optim import optimizer
from ps.optim.base import Step
from ps.optim.sgd import Sgd
from ps.optim.staleness import Staleness


@pytest.mark.parametrize(("kind", "expected"), [("inverse", [1, 1, 0.5, 0.25]), ("sqrt", [1, 0.5**0.5, 3**-0.5, 0.2])])
def test_the_rate_falls_as_the_papers_say(kind: str, expected: list[float]) -> None:
    rule = optimizer(f"staleness:kind={kind}+sgd:lr=0.5")
    taus = (0, 1, 2, 4) if kind == "inverse" else (0, 1, 2, 24)
    for tau, factor in zip(taus, expected, strict=True):
        w_N = np.zeros(1)
        rule.update(w_N, np.ones(1), [], w_N, Step(0.5, staleness=tau))
        assert w_N[0] == pytest.approx(-0.5 * factor, rel=1e-15)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(["inverse", "sqrt"]))
def test_the_factor_is_one_at_zero_never_rises_and_stays_positive(a: int, b: int, kind: str) -> None:
    rule = Staleness(Sgd(lr=0.1), kind=kind)  # type: ignore[arg-type]
    assert rule.factor(0) == 1.0
    assert 0 < rule.factor(max(a, b)) <= rule.factor(min(a, b)) <= 1


@pytest.mark.parametrize("inner", ["sgd:lr=0.1", "momentum:lr=0.1", "ftrl:lr=0.1,l1=0.1"])
def test_a_fresh_gradient_takes_the_plain_step_to_the_bit(inner: str) -> None:
    rng = np.random.default_rng(0)
    w_N, grad_N = rng.standard_normal(20).astype(np.float32), rng.standard_normal(20).astype(np.float32)
    outs = []
    for spec in (inner, f"staleness+{inner}"):
        rule, out_N = optimizer(spec), np.empty_like(w_N)
        state = [np.zeros_like(w_N) for _ in rule.state]
        rule.update(w_N, grad_N, state, out_N, Step(rule.lr, 0.01))
        outs.append(b"".join(x.tobytes() for x in (out_N, *state)))
    assert outs[0] == outs[1]


def test_rate_decay_state_and_base_come_from_the_inner_one() -> None:
    rule = optimizer("staleness+dcasgd+adam:lr=0.3,weight_decay=0.02")
    assert (rule.lr, rule.weight_decay) == (0.3, 0.02)
    assert rule.state == ("mean", "mean_square")
    assert rule.needs_base
    assert not optimizer("staleness+sgd:lr=1").needs_base
