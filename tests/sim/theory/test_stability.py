"""The largest stable learning rate of delayed gradient descent, with and without a heavy ball (algorithms.md 8.2).

f = lambda x^2 / 2 and a = lr lambda. Elements do not mix, so one run with as many curvatures as elements tests a whole
grid of `a`. P equal asynchronous workers give a delay of exactly P - 1 commits; they step by lr / P each.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ps.types import Float
from tests.sim.theory.helpers import F64, round_robin

TAUS = (0, 1, 2, 3, 4, 8, 16, 32)  # delays in commits
LIMITS = {  # heavy ball -> the first unstable a, by delay
    0.0: (2, 1, 0.61803, 0.44504, 0.34730, 0.18454, 0.09516, 0.04833),
    0.5: (3, 0.5, 0.28078, 0.19927, 0.15585, 0.08505, 0.04525, 0.02350),
    0.9: (3.8, 0.1, 0.05125, 0.03478, 0.02650, 0.01394, 0.00749, 0.00406),
    -0.5: (1, 1.5, 1.0, 0.71581, 0.55308, 0.28687, 0.14553, 0.07322),
}
CRITICAL = (1, 0.25, 0.14815, 0.10547, 0.08192, 0.04330, 0.02230, 0.01132)  # the last a without oscillation, no ball
CELLS = [(tau, mu, limit) for mu, row in LIMITS.items() for tau, limit in zip(TAUS, row, strict=True)]
GRID = 1 + 0.0025 * np.arange(-8, 9)  # of a, in units of the limit: 2 % to both sides
GAIN = 0.1  # by how much, in log, a grid point 0.5 % off the limit must have grown: 0.05 for its neighbour at 0.25 %


def roots(a: float, tau: int, mu: float) -> NDArray[np.complex128]:
    """Oracle: x[t+1] = x[t] + mu (x[t] - x[t-1]) - a x[t-tau], as a sum of powers of these; the largest first."""
    polynomial = np.zeros(max(tau + 1, 2) + 1)
    polynomial[:3] = 1, -(1 + mu), mu
    polynomial[tau + 1] += a
    found = np.roots(polynomial).astype(np.complex128)
    return found[np.argsort(-abs(found))]


def optimizer(lr: float, mu: float) -> str:
    return f"momentum:lr={lr!r},decay={mu}" if mu else f"sgd:lr={lr!r}"


def window_and_distance(tau: int, mu: float, limit: float) -> tuple[int, int]:
    """Commits to average over, four periods; commits from one average to the next, for the growth to be seen."""
    largest = roots(1.005 * limit, tau, mu)[0]
    period = 2 * math.pi / abs(np.angle(largest))
    window = max(100, math.ceil(4 * period))
    return window, max(window, math.ceil(GAIN / math.log(abs(largest))))


def growth(x_TN: F64, window: int, distance: int) -> F64:
    """Log of what the root mean square over `window` commits grew by, `distance` commits apart, up to the end."""
    late, early = x_TN[-window:], x_TN[-window - distance : len(x_TN) - distance]
    rate_N: F64 = 0.5 * np.log((late**2).mean(axis=0) / (early**2).mean(axis=0))
    return rate_N


def by_grid(place_N: Float, number_N: Float) -> str:
    return ", ".join(f"{place:.4f}: {number:.3g}" for place, number in zip(place_N, number_N, strict=True))


def settling(tau: int) -> int:
    """Commits after which only the largest roots are left."""
    return max(50, 8 * (tau + 1))


@pytest.mark.parametrize(("tau", "mu", "limit"), CELLS)
def test_the_table_of_limits_is_where_a_root_leaves_the_unit_circle(tau: int, mu: float, limit: float) -> None:
    inside, outside = abs(roots(0.998 * limit, tau, mu)[0]), abs(roots(1.002 * limit, tau, mu)[0])
    assert inside < 1 < outside, f"largest root at 0.998 and 1.002 of {limit}: {inside}, {outside}"
    if not mu:
        exact = 2 * math.sin(math.pi / (2 * (2 * tau + 1)))
        assert limit == pytest.approx(exact, rel=2e-4)


@pytest.mark.parametrize(("tau", "mu", "limit"), CELLS)
def test_the_largest_stable_rate(tau: int, mu: float, limit: float) -> None:
    window, distance = window_and_distance(tau, mu, limit)
    a_N = limit * np.append(GRID, (-0.02, 0.02))  # stable iff 0 < a < limit: two more points around the other end
    workers = tau + 1
    x_TN = round_robin(
        lambda x_N: a_N * x_N,
        np.ones(a_N.size),
        settling(tau) + window + distance,
        workers,
        optimizer(workers, mu),
    )
    grown_N = growth(x_TN, window, distance)
    shown = f"growth of log|x| by a / limit: {by_grid(a_N / limit, grown_N)}"
    stable_N = grown_N < 0
    assert stable_N[-2:].tolist() == [False, True], shown
    first = int(np.argmin(stable_N))  # unstable
    assert 0 < first < GRID.size and not stable_N[first : GRID.size].any(), shown
    pair = slice(first - 1, first + 1)
    measured = float(np.interp(0.0, grown_N[pair], a_N[pair]))
    assert measured == pytest.approx(limit, rel=0.0025), shown


@pytest.mark.parametrize(("tau", "critical"), list(zip(TAUS, CRITICAL, strict=True)))
def test_the_largest_rate_without_oscillation(tau: int, critical: float) -> None:
    exact = tau**tau / (tau + 1) ** (tau + 1)
    assert critical == pytest.approx(exact, rel=5e-4)
    grid = 1 + 0.005 * np.arange(-4, 5)
    a_N = np.append(critical * grid, exact)
    first_crossing = math.pi / abs(np.angle(roots(1.005 * critical, tau, 0.0)[0]))
    workers = tau + 1
    x_TN = round_robin(
        lambda x_N: a_N * x_N,
        np.ones(a_N.size),
        math.ceil(1.3 * first_crossing) + 3 * workers,
        workers,
        optimizer(workers, 0.0),
    )
    lowest_N = x_TN.min(axis=0)
    shown = f"lowest x, from 1, by a / critical: {by_grid(a_N / critical, lowest_N)}"
    crosses_N = lowest_N < 0
    first = int(np.argmax(crosses_N))
    assert first > 0 and crosses_N[first:-1].all() and not crosses_N[-1], shown
    measured = critical * (grid[first - 1] + grid[first]) / 2
    assert measured == pytest.approx(critical, rel=0.01), shown
    x_T = x_TN[:, -1]
    if not tau:
        assert x_T[1] == 0.0  # there in one step
        return
    square_T = x_T[1:-1] ** 2 - x_T[:-2] * x_T[2:]  # of x = (A + B t) r^t: B^2 r^(2t)
    rate = (square_T[-1] / square_T[-1 - workers]) ** (0.5 / workers)
    assert rate == pytest.approx(tau / workers, rel=1e-3)


def test_bisecting_the_learning_rate_finds_the_limit() -> None:
    tau, mu, limit = 2, 0.9, LIMITS[0.9][2]
    window, distance = window_and_distance(tau, mu, limit)
    low, high = 0.5 * limit, 2.0 * limit
    while high > 1.01 * low:
        lr = (low + high) / 2
        spelled = optimizer((tau + 1) * lr, mu)
        steps = settling(tau) + window + distance
        x_TN = round_robin(lambda x_N: x_N, np.ones(1), steps, tau + 1, spelled)
        if growth(x_TN, window, distance)[0] < 0:
            low = lr
        else:
            high = lr
    assert (low + high) / 2 == pytest.approx(limit, rel=0.01), f"between {low} and {high}, expected {limit}"


def test_of_many_curvatures_the_largest_decides() -> None:
    tau, limit = 3, LIMITS[0.0][3]
    random = np.random.default_rng(8)
    basis, _ = np.linalg.qr(random.standard_normal((5, 5)))
    hessian = basis @ np.diag([0.1, 0.2, 0.4, 0.7, 1.0]) @ basis.T  # lambda_max = 1
    scale_G = limit * GRID
    window, distance = window_and_distance(tau, 0.0, limit)
    norm_TG = round_robin(
        lambda x_NG: scale_G * (hessian @ x_NG),
        random.standard_normal((5, 1)) * np.ones(GRID.size),
        200 + window + distance,  # small curvatures settle slowly
        tau + 1,
        optimizer(tau + 1, 0.0),
        keep=lambda x_NG: np.linalg.norm(x_NG, axis=0),
    )
    grown_G = growth(norm_TG, window, distance)
    assert ((grown_G > 0) == (GRID > 1))[GRID != 1].all(), f"growth of log|x| by a / limit: {by_grid(GRID, grown_G)}"
