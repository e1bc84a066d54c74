"""Asynchrony begets momentum: with P workers in random order the mean moves like a heavy ball of 1 - 1/P (8.4).

Whose push comes next is drawn afresh each time, so staleness is geometric with mean P - 1 and independent of the
values. Mitliagkas, Zhang, Hadjis, Ré: Asynchrony begets momentum, Allerton 2016.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ps.keyspace import BUNDLE_MEMBER_BYTES_MAX
from ps.server.ledger import Commit
from ps.worker.client import Client
from tests.sim.theory.helpers import F64, simulate

WORKERS = 5
RUNS = 1500  # independent orders of the workers, one parameter each
COMMITS = 40  # of each
A_N = np.linspace(0.01, 0.2, BUNDLE_MEMBER_BYTES_MAX // 8)  # lr * lambda by element; long enough for a slice of its own


def heavy_ball() -> F64:
    """Oracle: E x by commits done, all history before 0 at x0 = 1."""
    mu = 1 - 1 / WORKERS
    mean = [np.ones_like(A_N), 1 - A_N]
    for _ in range(COMMITS - 1):
        mean.append(mean[-1] + mu * (mean[-1] - mean[-2]) - (1 - mu) * A_N * mean[-1])
    return np.array(mean)


def test_the_mean_trajectory_is_that_of_a_heavy_ball() -> None:
    names = [f"x{run}" for run in range(RUNS)]
    random = np.random.default_rng(84)
    turn_TR = np.array([random.permutation(np.arange(RUNS) % WORKERS) for _ in range(COMMITS)])
    sum_TN = np.zeros((COMMITS + 1, A_N.size))
    sum_TN[0] = RUNS
    staleness: Counter[int] = Counter()

    def train(client: Client) -> None:
        client.register({name: np.ones_like(A_N) for name in names})
        held = client.pull()
        client.spend(1.0)
        for turn_R in turn_TR:
            mine = [names[run] for run in np.flatnonzero(turn_R == client.rank)]
            client.push({name: A_N * held[name] for name in mine})
            held |= client.pull(mine)
            client.tick()
            client.spend(1.0)
        client.barrier()

    def on_commit(commit: Commit, values_N: F64) -> None:
        sum_TN[commit.version] += values_N
        if commit.version > COMMITS // 2:  # the start is not in it any more
            staleness[commit.staleness] += 1

    simulate(train, on_commit, consistency="async", workers=WORKERS, optimizer=f"sgd:lr={WORKERS}")
    expected_TN = heavy_ball()
    error_TN = sum_TN / RUNS - expected_TN
    worst = np.unravel_index(np.argmax(abs(error_TN)), error_TN.shape)
    shown = f"largest difference {error_TN[worst]:.4f} after {worst[0]} commits at a = {A_N[worst[1]]:.3f}"
    assert abs(error_TN).max() < 0.01, shown
    # And it shows: the largest a swings well through zero, which no gradient descent at these rates does by itself.
    assert expected_TN[:, -1].min() < -0.1 and sum_TN[:, -1].min() / RUNS < -0.1
    expected = geometric(COMMITS // 2)
    n = sum(staleness.values())
    share_L = np.array([staleness[delay] / n for delay in range(expected.size)])
    assert abs(share_L - expected).max() < 0.01, f"staleness: measured {share_L}, expected {expected}"


def geometric(count: int) -> F64:
    """P(staleness = l) for l below `count`."""
    return np.array([(1 / WORKERS) * (1 - 1 / WORKERS) ** delay for delay in range(count)])


def test_memoryless_workers_have_geometric_staleness() -> None:
    """The same order comes about by itself when compute times are exponential."""
    staleness: list[int] = []
    clocks = 800

    def train(client: Client) -> None:
        random = np.random.default_rng((84, client.rank))
        client.register({"x": np.ones(3)})
        for _ in range(clocks):
            x_N = client.pull()["x"]
            client.spend(random.exponential())
            client.push({"x": 0.01 * x_N})
            client.tick()

    def on_commit(commit: Commit, values_N: F64) -> None:
        staleness.append(commit.staleness)

    simulate(train, on_commit, consistency="async", workers=WORKERS, optimizer="sgd:lr=1")
    steady = staleness[100 : clocks * WORKERS * 9 // 10]  # all at work
    expected = geometric(15)
    share = np.bincount(steady, minlength=expected.size)[: expected.size] / len(steady)
    mean = np.mean(steady)
    assert abs(share - expected).max() < 0.02, f"staleness: measured {share}, expected {expected}"
    assert abs(mean / (WORKERS - 1) - 1) < 0.05, f"mean staleness: measured {mean}, expected {WORKERS - 1}"
