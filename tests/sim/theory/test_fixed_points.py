"""Where each scheme comes to rest when every worker has a loss of its own, f_k = a_k (x - b_k)^2 / 2 (8.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ps.server.ledger import Commit
from ps.worker.client import Client
from tests.sim.theory.helpers import F64, simulate

WORKERS = 3
PROBLEMS = 50  # elements: so many independent draws of all a_k, b_k
SPEEDS = (1, 2, 5)  # clocks per virtual second, by rank
RATES = (0.08, 0.04)


def losses() -> tuple[F64, F64]:
    """Curvature and optimum, by worker and problem."""
    random = np.random.default_rng(85)
    return random.uniform(0.3, 1.5, (WORKERS, PROBLEMS)), random.standard_normal((WORKERS, PROBLEMS))


A_WN, B_WN = losses()


def weighted_optimum(weight_W: Sequence[int]) -> F64:
    """The minimum of sum of weight_k f_k."""
    weight_WN = np.array(weight_W, np.float64)[:, None] * A_WN
    best: F64 = (weight_WN * B_WN).sum(axis=0) / weight_WN.sum(axis=0)
    return best


EQUAL_N = weighted_optimum((1, 1, 1))
BY_SPEED_N = weighted_optimum(SPEEDS)


def rest(clock_W: Sequence[int], averaged: int, **options: Any) -> F64:
    """The mean of the values after the last `averaged` commits, when the workers do so many clocks."""
    rows = []

    def train(client: Client) -> None:
        a_N, b_N = A_WN[client.rank], B_WN[client.rank]
        client.register({"x": np.zeros(PROBLEMS)})
        for _ in range(clock_W[client.rank]):
            x_N = client.pull()["x"]
            client.spend(1.0 / SPEEDS[client.rank])
            client.push({"x": a_N * (x_N - b_N)})
            client.tick()
        client.barrier()  # who leaves early raises the rate 1/live of the others

    def on_commit(commit: Commit, values_N: F64) -> None:
        rows.append(values_N.copy())

    simulate(train, on_commit, workers=WORKERS, **options)
    mean_N: F64 = np.mean(rows[-averaged:], axis=0)
    return mean_N


def off(measured_N: F64, expected_N: F64) -> float:
    return float(abs(measured_N - expected_N).max())


@pytest.mark.parametrize("every", [1, 4, 16])
def test_local_steps_rest_where_their_pulls_balance(every: int) -> None:
    lr = 0.1
    pull_WN = 1 - (1 - lr * A_WN) ** every
    expected_N = (pull_WN * B_WN).sum(axis=0) / pull_WN.sum(axis=0)
    clocks = every * math.ceil(30 / pull_WN.mean(axis=0).min())  # until e^-30 of the start is left
    consistency = f"local:every={every},local_lr={lr}"
    measured_N = rest([clocks] * WORKERS, 1, consistency=consistency, optimizer="sgd:lr=1")
    assert off(measured_N, expected_N) < 1e-10, f"{measured_N}, expected {expected_N}"
    bias = off(expected_N, EQUAL_N)
    assert bias < 1e-10 if every == 1 else bias > 0.05, f"every={every}: {bias} from the true optimum"


def test_bsp_rests_at_the_true_optimum_whatever_the_speeds() -> None:
    measured_N = rest([300] * WORKERS, 1, consistency="bsp", optimizer="sgd:lr=0.2")
    assert off(measured_N, EQUAL_N) < 1e-10, f"{measured_N}, expected {EQUAL_N}"


@pytest.mark.parametrize("staleness", [0, 3])
def test_ssp_rests_at_the_true_optimum_whatever_the_speeds(staleness: int) -> None:
    errors = []
    for lr in RATES:
        clocks = math.ceil(12 / (lr * A_WN.mean(axis=0).min()))
        consistency = f"ssp:staleness={staleness}"
        measured_N = rest([clocks] * WORKERS, 30 * WORKERS, consistency=consistency, optimizer=f"sgd:lr={lr}")
        errors.append(off(measured_N, EQUAL_N))
        assert off(measured_N, BY_SPEED_N) > 0.5, f"lr {lr}: {measured_N}"
    falls_with_the_rate(errors)


def test_async_weighs_the_workers_by_their_speeds() -> None:
    errors = []
    for lr in RATES:
        seconds = math.ceil(12 * WORKERS / (lr * A_WN.min() * sum(SPEEDS)))
        clock_W = [seconds * speed for speed in SPEEDS]
        measured_N = rest(clock_W, 10 * sum(SPEEDS), consistency="async", optimizer=f"sgd:lr={lr}")
        errors.append(off(measured_N, BY_SPEED_N))
        assert off(measured_N, EQUAL_N) > 0.5, f"lr {lr}: {measured_N}"
    falls_with_the_rate(errors)


def falls_with_the_rate(errors: list[float]) -> None:
    """Commits one by one go round the fixed point, on a way as long as the rate: what is left falls like it."""
    shown = f"differences from the fixed point at rates {RATES}: {errors}"
    assert all(error < lr for error, lr in zip(errors, RATES, strict=True)), shown
    assert errors[1] < 0.6 * errors[0], shown
