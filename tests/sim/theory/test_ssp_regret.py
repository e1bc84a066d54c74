"""The regret of SSP lies below its bound and falls like one over the root of the updates (algorithms.md 8.1).

Ho et al., NIPS 2013, theorem 1. Every loss is |x - b| in one dimension, with a `b` of its own; elements do not mix, so
one run with many elements is as many problems.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from ps.server.ledger import Commit
from ps.worker.client import Client
from tests.sim.theory.helpers import F64, simulate

WORKERS = 4
PROBLEMS = 500  # of each kind
CLOCKS = 512  # of each worker
COUNTS = (32, 64, 128, 256, 512)  # clocks after which the regret is taken
LIPSCHITZ = 1.0  # of |x - b|
DISTANCE = math.sqrt(2.0)  # F: (x - x*)^2 / 2 <= F^2, that is |x - x*| <= 2; checked
REACH = math.sqrt(2.0) * DISTANCE


def data() -> F64:
    """b by worker, clock and problem. Half of the problems: noise around a median. Half: fair coins.

    For coins all x between the sides are equally good but in hindsight, so they get nearest to the bound.
    """
    random = np.random.default_rng(81)
    shape = (WORKERS, CLOCKS, PROBLEMS)
    noise_WCN = random.uniform(-1, 1, PROBLEMS) + random.uniform(-0.8, 0.8, shape)
    coin_WCN = random.choice((-0.6, 0.6), shape)
    return np.concatenate((noise_WCN, coin_WCN), axis=2)


def average_regret(view_WCN: F64, b_WCN: F64) -> tuple[F64, float]:
    """By problem, against the best x in hindsight; how far any view was from that."""
    best_N = np.median(b_WCN, axis=(0, 1))
    regret_N: F64 = (abs(view_WCN - b_WCN) - abs(best_N - b_WCN)).mean(axis=(0, 1))
    return regret_N, float(abs(view_WCN - best_N).max())


@pytest.mark.parametrize("staleness", [0, 1, 4, 16])
def test_the_regret_is_below_the_bound_and_falls_like_the_root(staleness: int) -> None:
    sigma = DISTANCE / (LIPSCHITZ * math.sqrt(2 * (staleness + 1) * WORKERS))
    lr = sigma * math.sqrt(WORKERS)  # a commit steps by lr / P / sqrt(clock + 1) = sigma / sqrt(P (clock + 1))
    b_WCN = data()
    view_WCN = np.empty_like(b_WCN)
    clock_W = [0] * WORKERS
    leads = []  # of each reader before the slowest

    def train(client: Client) -> None:
        random = np.random.default_rng((81, staleness, client.rank))
        client.register({"x": np.zeros(2 * PROBLEMS)})
        for clock in range(CLOCKS):
            x_N = client.pull()["x"]
            leads.append(clock - min(clock_W))
            view_WCN[client.rank, clock] = x_N
            client.spend(random.exponential())  # now this worker is slow, now that one
            client.push({"x": np.sign(x_N - b_WCN[client.rank, clock])})
            client.tick()
            clock_W[client.rank] += 1
        client.barrier()  # who leaves early raises the rate 1/live of the others

    def on_commit(commit: Commit, values_N: F64) -> None:
        slowest = min(clock_W)  # one ahead of the shard while its last tick is under way
        expected = [sigma / math.sqrt(WORKERS * max(clock + 1, 1)) for clock in (slowest - 1, slowest)]
        assert any(math.isclose(commit.lr, rate) for rate in expected), f"rate {commit.lr}, expected one of {expected}"

    simulate(
        train,
        on_commit,
        workers=WORKERS,
        consistency=f"ssp:staleness={staleness}",
        optimizer=f"sgd:lr={lr!r}",
        schedule="inverse_sqrt",
    )
    assert max(leads) == staleness, f"largest lead of a reader: {max(leads)}, expected {staleness}"
    regrets = []
    for count in COUNTS:
        regret_N, farthest = average_regret(view_WCN[:, :count], b_WCN[:, :count])
        bound = 4 * DISTANCE * LIPSCHITZ * math.sqrt(2 * (staleness + 1) / count)  # sqrt(P T) / T, T = P * count
        assert farthest <= REACH, f"a view is {farthest} from the optimum: the bound is not for it"
        assert regret_N.max() < bound, f"after {count} clocks: average regret {regret_N.max()}, bound {bound}"
        regrets.append((regret_N[:PROBLEMS].mean(), regret_N[PROBLEMS:].mean()))
    slopes = np.polyfit(np.log(COUNTS), np.log(regrets), 1)[0]
    assert slopes.max() <= -0.45, f"average regrets {regrets} after {COUNTS} clocks: slopes {slopes}"
