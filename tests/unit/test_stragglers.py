"""Slow workers by formula: how slow, how often, and the same from the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ps
from ps.config import RunConfig
from ps.errors import ConfigError
from ps.launch.options import checked_config
from ps.stragglers import slowdowns

COMPUTE_S = 0.25


def sample(spec: str, seed: int = 7, rank: int = 0, size: int = 4, clocks: int = 20_000) -> list[float]:
    slow = slowdowns(spec, seed)
    return [slow.of(rank, size, clock) for clock in range(clocks)]


def test_nobody_is_slow_unless_said() -> None:
    assert set(sample("transient:chance=0", clocks=100)) == {1.0}
    assert set(sample("none", clocks=100)) == {1.0}
    assert slowdowns(None).of(3, 4, 0) == 1.0


def test_transient_slowness_comes_by_its_chance() -> None:
    found = sample("transient:chance=0.05,factor=8")
    assert set(found) == {1.0, 8.0}
    deviation = (0.05 * 0.95 / len(found)) ** 0.5
    assert abs(found.count(8.0) / len(found) - 0.05) < 4 * deviation


def test_persistent_slowness_is_the_last_workers() -> None:
    assert [sample("persistent:workers=2,factor=4", rank=rank, clocks=3) for rank in range(4)] == [
        [1.0] * 3,
        [1.0] * 3,
        [4.0] * 3,
        [4.0] * 3,
    ]


def test_speeds_are_those_of_each_worker() -> None:
    assert [sample("speeds:of=1/1/2/4", rank=rank, clocks=1)[0] for rank in range(5)] == [4.0, 4.0, 2.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("spec", "deviation"),
    [("exponential", 1.0), ("exponential:floor=0.5", 0.5), ("pareto:alpha=4", (4 * 2) ** -0.5)],
)
def test_random_times_have_their_mean_and_spread(spec: str, deviation: float) -> None:
    found = np.array(sample(spec))
    assert found.mean() == pytest.approx(1.0, abs=4 * deviation / len(found) ** 0.5)
    assert found.std() == pytest.approx(deviation, rel=0.2)


def test_joined_ones_multiply() -> None:
    assert sample("persistent:workers=4,factor=3+speeds:of=1/2", clocks=1) == [6.0]


def test_the_same_seed_worker_and_clock_are_as_slow_again_and_others_are_not() -> None:
    assert sample("exponential", clocks=50) == sample("exponential", clocks=50)
    assert sample("exponential", clocks=50) != sample("exponential", seed=8, clocks=50)
    assert sample("exponential", clocks=50) != sample("exponential", rank=1, clocks=50)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sometimes", "stragglers: expected one of exponential, none, pareto, persistent, speeds, transient"),
        ("transient:chance=2", "stragglers: transient: chance: "),
        ("speeds:of=fast", "stragglers: speeds: of: "),
        ("speeds:of=1/0", "stragglers: speeds: of: expected speeds > 0 as in 1/1/2/4, got '1/0'"),
        ("speeds", "stragglers: speeds: of: expected a value, got none"),
    ],
)
def test_wrong_spellings_are_named(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        ps.LocalCluster(stragglers=spec)


HASTENING = ["exponential", "exponential:floor=0.9", "pareto", "transient:factor=0.5", "persistent:factor=0"]
SLOWING = ["exponential:floor=1", "transient", "persistent", "speeds:of=1/0.5/4", "transient:factor=1"]


@pytest.mark.parametrize("spec", HASTENING + [f"speeds:of=1/2+{spec}" for spec in HASTENING])
def test_a_law_that_makes_steps_shorter_needs_a_time_to_make_shorter(spec: str) -> None:
    RunConfig.check({"stragglers": spec, "compute_s": 0.1})
    with pytest.raises(ConfigError, match=r"^stragglers: expected compute_s beside .*, got none$") as raised:
        RunConfig.check({"stragglers": spec})
    assert spec in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("spec", SLOWING)
def test_a_law_that_only_slows_does_not(spec: str) -> None:
    RunConfig.check({"stragglers": spec})
    assert min(sample(spec, clocks=200)) >= 1.0


def test_the_flag_that_is_wrong_is_named_beside_such_a_law() -> None:
    with pytest.raises(ConfigError, match=r"^--consistency: "):
        checked_config({"stragglers": "pareto", "compute_s": 0.1, "consistency": "spp"})


def steps(consistency: str, clocks: int, **options: Any) -> list[tuple[float, float]]:
    """Of each worker: virtual seconds of its steps, and what it counted as compute."""

    def train(client: ps.Client) -> tuple[float, float]:
        client.register({"w": np.zeros(4, np.float32)})
        client.barrier()
        began = client.busy_s
        for _ in range(clocks):
            client.pull()
            client.push({"w": np.ones(4, np.float32)})
            client.tick()
        [compute] = [h for (name, _), h in client.metrics.snapshot().histograms.items() if name == "compute"]
        assert compute.n == clocks
        return client.busy_s - began, compute.sum

    with ps.LocalCluster(workers=2, seed=3, consistency=consistency, **options) as cluster:
        return cluster.run(train)


@pytest.mark.parametrize("model", ["bsp", "async", "local:every=5,local_lr=0.1"])
def test_a_step_computes_as_long_as_the_run_says(model: str) -> None:
    slow = slowdowns("transient:chance=0.3,factor=8", 3)
    found = steps(model, 40, compute_s=COMPUTE_S, stragglers="transient:chance=0.3,factor=8")
    for rank, (seconds, compute) in enumerate(found):
        expected = COMPUTE_S * sum(slow.of(rank, 2, clock) for clock in range(40))
        assert seconds == pytest.approx(expected, rel=1e-9)
        assert compute == pytest.approx(expected, rel=1e-9)


def test_without_a_time_of_its_own_what_a_step_took_is_stretched() -> None:
    def train(client: ps.Client) -> float:
        client.register({"w": np.zeros(4, np.float32)})
        client.spend(100.0)  # before the loop: no part of a step
        client.barrier()
        began = client.busy_s
        for _ in range(10):
            client.pull()
            client.spend(0.5)
            for part in range(3):  # several pushes are one step
                client.push({"w": np.full(4, part, np.float32)})
            client.tick()
        return client.busy_s - began

    with ps.LocalCluster(workers=2, seed=3, consistency="async", stragglers="persistent:factor=3") as cluster:
        assert cluster.run(train) == pytest.approx([5.0, 15.0])
