"""Elastic averaging on f = x^2 / 2: what an exchange conserves, and for which alpha and rate it is stable (1.8).

Elements do not mix, so one run tests as many rates as there are elements. Links are next to instant here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ps.worker.client import Client
from tests.sim.theory.helpers import F64, simulate

Step = Callable[[int, int, F64], F64]  # rank, round, w_k -> w_k after a local step


def exchanges(step: Step, size: int, rounds: int, workers: int, alpha: float, at_once: bool = False) -> tuple[Any, F64]:
    """w_k after each exchange, by rank and round, and w after each commit. All start from ones.

    Workers exchange after every step, one after the other, or all at once.
    """
    center = []

    def train(client: Client) -> list[F64]:
        client.register({"x": np.ones(size)})
        client.pull()
        client.barrier()
        client.spend(0 if at_once else client.rank)
        rows = []
        for number in range(rounds):
            client.step_to({"x": step(client.rank, number, client.pull()["x"])})
            client.tick()
            rows.append(client.pull()["x"])
            client.spend(client.size)
        return rows

    read = simulate(
        train,
        lambda _, values_N: center.append(values_N.copy()),
        consistency=f"easgd:alpha={alpha},every=1",
        optimizer="add",
        workers=workers,
    )
    return np.array(read), np.array(center)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_an_exchange_conserves_the_sum_of_all(workers: int, at_once: bool) -> None:
    """Exactly, not to rounding: whole numbers, alpha = 1 / 2, and fewer exchanges than a float64 has bits."""
    change_TWN = np.random.default_rng(workers).integers(-9, 9, (4, workers, 20)).astype(np.float64)
    x_WTN, w_CN = exchanges(lambda rank, t, x_N: x_N + change_TWN[t, rank], 20, 4, workers, 0.5, at_once)
    for t in range(4):
        total_N = x_WTN[:, t].sum(0) + w_CN[(t + 1) * workers - 1]
        assert (total_N == workers + 1 + change_TWN[: t + 1].sum((0, 1))).all(), f"round {t}"


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_without_steps_all_meet_at_their_mean(workers: int, at_once: bool) -> None:
    starts_WN = np.random.default_rng(workers).standard_normal((workers, 20))
    x_WTN, w_CN = exchanges(lambda k, t, x_N: x_N if t else starts_WN[k], 20, 120, workers, 0.1, at_once)
    w_TN = w_CN[workers - 1 :: workers]
    distance_T = abs(x_WTN - w_TN).max((0, 2))
    assert (np.diff(distance_T[:40]) < 0).all(), distance_T
    mean_N = (starts_WN.sum(0) + 1) / (workers + 1)
    np.testing.assert_allclose(np.vstack([x_WTN[:, -1], w_TN[-1:]]), np.tile(mean_N, (workers + 1, 1)), atol=1e-4)


@pytest.mark.parametrize("alpha", [0.25, 0.5])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_one_after_the_other_is_stable_up_to_the_limit_of_the_paper(workers: int, alpha: float) -> None:
    """alpha <= (4 - 2 lr) / (4 - lr), solved for lr: the paper's order takes the gradient before the exchange."""
    lr_N = 4 * (1 - alpha) / (2 - alpha) * np.array([0.3, 0.97, 1.03])
    before = {rank: np.ones(3) for rank in range(workers)}

    def paper(rank: int, number: int, x_N: F64) -> F64:
        before[rank] = x_N - lr_N * before[rank]
        return before[rank]

    def step(rank: int, number: int, x_N: F64) -> F64:
        return x_N - lr_N * x_N

    x_WTN, _ = exchanges(paper, 3, 200, workers, alpha)
    size_TN = abs(x_WTN).max(0)
    grown_N = size_TN[-40:].max(0) / size_TN[-80:-40].max(0)
    assert grown_N[0] < grown_N[1] < 0.5 and grown_N[2] > 2, f"grown in 40 rounds by {grown_N}"
    x_WTN, _ = exchanges(step, 3, 100, workers, alpha)  # after the exchange, as a script does: stable there, and beyond
    assert (abs(x_WTN[:, -1]) < 1e-6).all(), x_WTN[:, -1]


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_all_at_once_is_stable_up_to_two_over_one_more_than_the_workers(workers: int) -> None:
    """The worst that moving beside one another can do: everybody's d is measured from the same w."""
    limit = 2 / (workers + 1)

    def step(rank: int, number: int, x_N: F64) -> F64:
        return x_N if number else np.full(1, 2.0)

    grown = []
    for alpha in (0.9 / workers, 0.98 * limit, 1.02 * limit)[: 2 if workers == 1 else 3]:
        x_WTN, w_CN = exchanges(step, 1, 100, workers, alpha, at_once=True)
        distance_T = abs(x_WTN[0, :, 0] - w_CN[workers - 1 :: workers, 0])
        grown.append(distance_T[-1] / distance_T[0])
    assert max(grown[:2]) < 0.1 and all(one > 10 for one in grown[2:]), f"grown by {grown}"
