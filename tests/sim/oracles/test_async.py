"""Asynchronous SGD: one worker is sequential training to the bit; equal workers are P - 1 commits late."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ps import keyspace
from ps.keyspace import Options
from ps.sim.links import LinkFaults
from ps.worker.client import Client
from tests.sim.helpers import APPLY_S, FAULTS, same_bytes, simulate
from tests.sim.oracles.problem import SLICE_ELEMENTS, Problem

RULES = (
    "add",
    "sgd:lr=0.1",
    "momentum:lr=0.1,decay=0.8",
    "adagrad:lr=0.1,eps=1e-6",
    "adam:lr=0.03",
    "rmsprop:lr=0.03,decay=0.8",
    "ftrl:lr=0.1,l1=0.01,l2=0.1",
)
MODELS = ("async", "ssp:staleness=0", "ssp:staleness=3", "downpour")


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "SLICE_ELEMENTS_MAX", SLICE_ELEMENTS)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("seed", "model"), list(enumerate(MODELS)))
def test_one_worker_alone_is_sequential_training_to_the_bit(seed: int, model: str, rule: str) -> None:
    draw = np.random.default_rng([seed, RULES.index(rule)])
    problem = Problem(
        seed, workers=1, clocks=6, sparse=draw.random() < 0.5, repeated=draw.random() < 0.5,
        options={"cut": Options(lr_scale=0.5), "wide": Options(weight_decay=0.03)} if rule != "add" else {},
    )  # fmt: skip
    run = simulate(
        problem.train, seed=seed, workers=1, servers=1 + int(draw.integers(3)), consistency=model, optimizer=rule,
        faults=FAULTS if draw.random() < 0.8 else LinkFaults(), apply_s=APPLY_S if draw.random() < 0.8 else 0.0,
        schedule="inverse_sqrt" if draw.random() < 0.3 and model == "async" else "constant",
    )  # fmt: skip
    expected = problem.sequential(rule, run.sim.config.schedule)
    for clock, got in enumerate(run.results[0]):
        same_bytes(run, got, expected[clock], f"read at clock {clock}")
    same_bytes(run, run.final(), expected[-1], "servers")


@pytest.mark.parametrize("rule", ["dcasgd:lam=0.5+sgd:lr=0.1", "staleness+momentum:lr=0.1,decay=0.8"])
@pytest.mark.parametrize("seed", range(3))
def test_wrappers_leave_a_worker_alone_as_it_is(seed: int, rule: str) -> None:
    """One push per clock, on what was just read: nothing is late and nothing has drifted."""
    problem = Problem(seed, workers=1, clocks=6)
    run = simulate(problem.train, seed=seed, workers=1, consistency="async", optimizer=rule)
    same_bytes(run, run.final(), problem.sequential(rule.partition("+")[2])[-1], "servers")


def staleness_of(seed: int, workers: int) -> list[int]:
    """Of all commits of one slice, where every worker computes for the same time and they start evenly apart."""

    def train(client: Client) -> None:
        client.register({"w": np.zeros(3, np.float32)})
        client.spend(client.rank / workers)
        for _ in range(12):
            client.pull()
            client.spend(1.0)
            client.push({"w": np.ones(3, np.float32)})
            client.tick()
        client.barrier()

    run = simulate(
        train, seed=seed, workers=workers, consistency="async", optimizer="sgd:lr=0.1",
        faults=LinkFaults(delay_s=1e-3, jitter_s=1e-4), apply_s=0.0,
    )  # fmt: skip
    return [commit.staleness for commit in run.commits(0)]


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_equal_workers_are_one_less_than_their_number_late(workers: int) -> None:
    late = staleness_of(1, workers)
    assert late[:workers] == list(range(workers)), f"seed 1, {workers} workers: the first are {late[:workers]} late"
    assert set(late[workers:]) == {workers - 1}, f"seed 1, {workers} workers: {Counter(late)}"


@pytest.mark.parametrize("seed", range(4))
def test_nobody_waits_for_a_stalled_worker(seed: int) -> None:
    def train(client: Client) -> float:
        client.register({"w": np.zeros(3, np.float32)})
        for clock in range(5):
            client.pull()
            client.spend(1e5 if client.rank == 1 and clock == 2 else 0.01)
            client.push({"w": np.ones(3, np.float32)})
            client.tick()
        return client._worker.port.now()

    run = simulate(train, seed=seed, consistency="async")
    assert max(run.results[0], run.results[2]) < 10, run.say(f"ends at {run.results}")
    assert len(run.commits(0)) == 15, run.say(f"{len(run.commits(0))} commits")
