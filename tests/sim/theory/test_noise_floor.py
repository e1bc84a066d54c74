"""The variance that gradient noise keeps up, with and without a delay (algorithms.md 8.3)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sim.theory.helpers import F64, round_robin

SIGMA = 0.7  # standard deviation of the noise of one gradient
LR = 0.5
STEPS = (0.1, 0.3, 0.6, 0.9)  # a = lr * lambda
REPEATS = 20_000  # independent problems for each a
COMMITS = 300  # mean squares over so many have a standard error of 0.3 %, for the smallest a
FORGOTTEN = 140  # of them, at the start: x0 = 0 has no variance


def closed_form(a: float, tau: int) -> float:
    """Var x of x[t+1] = x[t] - lr * (lambda x[t-tau] + noise), as the reference gives it."""
    if tau == 0:
        return LR * SIGMA**2 / (a / LR * (2 - a))
    assert tau == 1
    return LR**2 * SIGMA**2 * (1 + a) / (a * (1 - a) * (2 + a))


def summed_response(a: float, tau: int) -> float:
    """The same for any delay: every noise draw leaves its trace; squares of the traces add up."""
    response = [0.0] * tau + [1.0]
    for _ in range(20_000):
        response.append(response[-1] - a * response[-1 - tau])
    return LR**2 * SIGMA**2 * float(np.square(response).sum())


def measured(steps: tuple[float, ...], tau: int) -> F64:
    """Mean square of x over elements and commits, by a."""
    random = np.random.default_rng(83 + tau)
    workers = tau + 1
    lambda_AR = np.repeat(np.array(steps) / LR, REPEATS).reshape(len(steps), REPEATS)
    square_TA = round_robin(
        lambda x_AR: lambda_AR * x_AR + SIGMA * random.standard_normal(x_AR.shape),
        np.zeros(lambda_AR.shape),
        COMMITS,
        workers,
        f"sgd:lr={workers * LR}",
        keep=lambda x_AR: np.square(x_AR).mean(axis=1),
    )
    square_A: F64 = square_TA[FORGOTTEN:].mean(axis=0)
    return square_A


@pytest.mark.parametrize("tau", [0, 1])
def test_the_noise_floor_is_what_the_closed_form_says(tau: int) -> None:
    expected_A = np.array([closed_form(a, tau) for a in STEPS])
    assert expected_A == pytest.approx(np.array([summed_response(a, tau) for a in STEPS]), rel=1e-9)
    measured_A = measured(STEPS, tau)
    assert measured_A == pytest.approx(expected_A, rel=0.01), f"a {STEPS}: {measured_A}, expected {expected_A}"


def test_the_noise_floor_at_a_larger_delay() -> None:
    tau, steps = 3, (0.1, 0.2, 0.3)
    expected_A = np.array([summed_response(a, tau) for a in steps])
    measured_A = measured(steps, tau)
    assert measured_A == pytest.approx(expected_A, rel=0.01), f"a {steps}: {measured_A}, expected {expected_A}"
