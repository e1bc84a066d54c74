"""Staleness as an independent variable: one worker, and each push as many commits late as was asked for."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

import ps
from ps.errors import ConfigError
from ps.sim.staleness import delays
from tests.sim.theory.helpers import F64, imposed
from tests.sim.theory.test_begets_momentum import A_N, COMMITS, WORKERS, heavy_ball
from tests.sim.theory.test_noise_floor import FORGOTTEN, LR, SIGMA, closed_form
from tests.sim.theory.test_stability import CELLS, growth, optimizer, settling, window_and_distance


def delayed(a_N: F64, ages: list[int]) -> F64:
    """Oracle: x[t+1] = x[t] - a x[t - age], all history before 0 at x0 = 1."""
    x_TN = [np.ones_like(a_N)]
    for t, age in enumerate(ages):
        x_TN.append(x_TN[t] - a_N * x_TN[max(t - age, 0)])
    return np.array(x_TN)


@pytest.mark.parametrize(("tau", "mu", "limit"), CELLS)
def test_the_largest_stable_rate_is_that_of_the_table(tau: int, mu: float, limit: float) -> None:
    """Algorithms.md 8.2: 1 % below it x dies out, 1 % above it grows."""
    window, distance = window_and_distance(tau, mu, limit)
    a_N = limit * np.array([0.99, 1.01])
    commits = settling(tau) + window + distance
    x_TN, found = imposed(lambda x_N: a_N * x_N, np.ones(2), commits, f"constant:{tau}", optimizer(1, mu))
    assert found == [min(t, tau) for t in range(commits)]
    shrinks, grows = growth(x_TN, window, distance)
    assert shrinks < 0 < grows, f"growth of log|x| at 0.99 and 1.01 of {limit}: {shrinks}, {grows}"


def test_bisecting_the_rate_itself_finds_the_limit() -> None:
    tau, limit = 4, 0.34730
    window, distance = window_and_distance(tau, 0.0, limit)
    low, high = 0.5 * limit, 2 * limit
    while high > 1.005 * low:
        lr = (low + high) / 2
        commits = settling(tau) + window + distance
        x_TN, _ = imposed(lambda x_N: x_N, np.ones(1), commits, f"constant:{tau}", f"sgd:lr={lr!r}")
        low, high = (lr, high) if growth(x_TN, window, distance)[0] < 0 else (low, lr)
    assert (low + high) / 2 == pytest.approx(limit, rel=0.01)


def test_the_noise_floor_of_one_commit_of_delay() -> None:
    """Algorithms.md 8.3, tau = 1."""
    random, steps, repeats, commits = np.random.default_rng(3), (0.1, 0.3, 0.6), 20_000, 300
    lambda_AR = np.repeat(np.array(steps) / LR, repeats).reshape(len(steps), repeats)
    square_TA, _ = imposed(
        lambda x_AR: lambda_AR * x_AR + SIGMA * random.standard_normal(x_AR.shape),
        np.zeros(lambda_AR.shape),
        commits,
        "constant:1",
        f"sgd:lr={LR}",
        keep=lambda x_AR: np.square(x_AR).mean(axis=1),
    )
    expected_A = [closed_form(a, 1) for a in steps]
    assert square_TA[FORGOTTEN:].mean(axis=0) == pytest.approx(expected_A, rel=0.01)


def test_a_trace_is_followed_to_the_bit_and_begins_again(tmp_path: Path) -> None:
    ages = [0, 3, 1, 7, 2]
    (tmp_path / "ages.txt").write_text("0 3 1\n7 2\n")
    a_N = np.linspace(0.01, 0.2, 7)
    x_TN, found = imposed(lambda x_N: a_N * x_N, np.ones(7), 17, f"trace:{tmp_path}/ages.txt", "sgd:lr=1")
    asked = [ages[t % 5] for t in range(17)]
    assert found == [min(t, age) for t, age in enumerate(asked)]
    assert x_TN.tobytes() == delayed(a_N, asked).tobytes()


def test_a_geometric_staleness_begets_momentum() -> None:
    """The run is the recursion, to the bit; the mean of the recursion over its draws is a heavy ball (8.4)."""
    x_TN, found = imposed(lambda x_N: A_N * x_N, np.ones_like(A_N), 300, f"geometric:mean={WORKERS - 1}", "sgd:lr=1")
    assert x_TN.tobytes() == delayed(A_N, found).tobytes()
    assert max(found) > WORKERS and np.mean(found) == pytest.approx(WORKERS - 1, rel=0.25)
    draw, runs = delays(f"geometric:mean={WORKERS - 1}", Random(84)).draw, 5000
    some_N = A_N[::64]
    sum_TN = sum(delayed(some_N, [draw() for _ in range(COMMITS)]) for _ in range(runs))
    assert abs(np.asarray(sum_TN) / runs - heavy_ball()[:, ::64]).max() < 0.01


def test_geometric_delays_have_their_mean_and_their_shares() -> None:
    draw = delays("geometric:mean=8", Random(1)).draw
    ages = np.array([draw() for _ in range(50_000)])
    assert ages.mean() == pytest.approx(8, rel=0.02)
    share_L = np.bincount(ages, minlength=30)[:30] / len(ages)
    assert abs(share_L - (1 / 9) * (8 / 9) ** np.arange(30)).max() < 0.005
    assert {delays("geometric:mean=0", Random(1)).draw() for _ in range(9)} == {0}


def test_it_holds_with_several_servers_and_slices_and_is_the_same_again() -> None:
    def train(client: ps.Client) -> list[float]:
        client.register({"a": np.ones(2000, np.float32), "b": np.ones(1500, np.float32)})
        rows = []
        for _ in range(12):
            x = client.push_pull({name: 0.1 * x for name, x in client.pull().items()})
            rows.append(float(x["a"][0]))
            assert x["a"][0] == x["b"][0], "both slices are equally old"
        return rows

    def run(staleness: str, seed: int) -> list[float]:
        with ps.LocalCluster(
            2, 1, consistency="async", optimizer="sgd:lr=1", seed=seed, staleness=staleness
        ) as cluster:
            [rows] = cluster.run(train)
        return list(rows)

    assert run("geometric:mean=2", 5) == run("geometric:mean=2", 5) != run("geometric:mean=2", 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(staleness="often"), "expected constant:COMMITS, geometric:mean=COMMITS or trace:FILE, got 'often'"),
        (dict(staleness="constant:-1"), "got 'constant:-1'"),
        (dict(staleness="geometric:mean=nan"), "with a finite mean >= 0, got 'geometric:mean=nan'"),
        (dict(staleness="trace:/no/such/file"), "expected a file of whole numbers, got .*/no/such/file"),
        (dict(staleness="constant:1", workers=2), "expected workers=1 and consistency=async: .*, got 2 and async"),
        (dict(staleness="constant:1", consistency="ssp:staleness=1"), "got 1 and ssp:staleness=1"),
        (dict(staleness="constant:1", consistency="bsp"), "got 1 and bsp"),
        (dict(staleness="constant:1", compression="fp16"), "expected pull_compression=none"),
        (dict(staleness="constant:1", optimizer="dcasgd:lam=0.04+sgd:lr=1"), "needs no earlier values"),
        (dict(staleness="constant:1", seed=None), "staleness: expected it with a seed"),
    ],
)
def test_what_cannot_be_imposed_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ps.LocalCluster(**{"seed": 1, "consistency": "async", **options})  # type: ignore[arg-type]
