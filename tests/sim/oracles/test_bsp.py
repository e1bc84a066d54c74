"""BSP is one process that computes the same P gradients and combines them in rank order, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ps import keyspace
from ps.keyspace import Options
from ps.optim import OPTIMIZERS, WRAPPERS
from ps.sim.links import LinkFaults
from ps.types import Array
from ps.worker.client import Client
from tests.sim.helpers import APPLY_S, FAULTS, Run, relative, same_bytes, simulate
from tests.sim.oracles.problem import SLICE_ELEMENTS, Problem

# Spelling of the cluster's optimizer, and of the one that the single process uses: wrappers change nothing here, as
# under BSP no gradient is late and no value drifts.
RULES = {
    "add": "add",
    "sgd:lr=0.1": "sgd:lr=0.1",
    "sgd:lr=0.1,weight_decay=0.01": "sgd:lr=0.1,weight_decay=0.01",
    "momentum:lr=0.1,decay=0.8": "momentum:lr=0.1,decay=0.8",
    "nesterov:lr=0.1,decay=0.8": "nesterov:lr=0.1,decay=0.8",
    "delayed_nesterov:lr=0.1,decay=0.8,period=2,c=0.1": "delayed_nesterov:lr=0.1,decay=0.8,period=2,c=0.1",
    "adagrad:lr=0.1,eps=1e-6": "adagrad:lr=0.1,eps=1e-6",
    "adam:lr=0.03": "adam:lr=0.03",
    "adamw:lr=0.03,weight_decay=0.1": "adamw:lr=0.03,weight_decay=0.1",
    "onebit_adam:lr=0.03,warmup=2": "onebit_adam:lr=0.03,warmup=2",
    "rmsprop:lr=0.03,decay=0.8": "rmsprop:lr=0.03,decay=0.8",
    "ftrl:lr=0.1,l1=0.01,l2=0.1": "ftrl:lr=0.1,l1=0.01,l2=0.1",
    "staleness+momentum:lr=0.1,decay=0.8": "momentum:lr=0.1,decay=0.8",
    "dcasgd:lam=0.5+sgd:lr=0.1": "sgd:lr=0.1",
    "staleness:kind=sqrt+dcasgd:lam=0.5+adam:lr=0.03": "adam:lr=0.03",
}
WORKERS = (1, 2, 3, 5, 8)
CASES = [(seed, rule, workers) for seed, (_, rule, workers) in enumerate(itertools.product(range(2), RULES, WORKERS))]


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "SLICE_ELEMENTS_MAX", SLICE_ELEMENTS)


def check(run: Run, problem: Problem, spec: str, rates: str = "constant") -> None:
    """Every read of every worker at clock c, and the servers at the end, are the single process's bytes."""
    expected = problem.one_process(spec, rates)
    for rank, read in enumerate(run.results):
        for clock, got in enumerate(read):
            names = problem.pulls(rank, clock) if clock < problem.clocks else list(expected[-1])
            wanted = {name: expected[clock][name] for name in names}
            same_bytes(run, got, wanted, f"worker {rank} at clock {clock}")
    same_bytes(run, run.final(), expected[-1], "servers")


def test_every_optimizer_and_wrapper_is_among_the_cases() -> None:
    names = {part.partition(":")[0] for rule in RULES for part in rule.split("+")}
    assert names == {*OPTIMIZERS, *WRAPPERS}


@pytest.mark.parametrize(("seed", "rule", "workers"), CASES)
def test_bsp_is_one_process_to_the_bit(seed: int, rule: str, workers: int) -> None:
    draw = np.random.default_rng(seed)
    wraps = "dcasgd" in rule  # what it knows of a worker's values is what it last sent: so all is pulled at each clock
    problem = Problem(
        seed, workers, clocks=5, uneven=draw.random() < 0.7, sparse=draw.random() < 0.4, repeated=draw.random() < 0.4,
        lazy=draw.random() < 0.3 and not wraps,
        options={"cut": Options(lr_scale=0.5), "wide": Options(weight_decay=0.03)} if rule != "add" else {},
    )  # fmt: skip
    rates = "cosine:clocks=6,warmup=2" if draw.random() < 0.3 else "constant"
    run = simulate(
        problem.train, seed=seed, workers=workers, servers=1 + seed % 4, optimizer=rule, schedule=rates,
        compression="none",
        faults=FAULTS if draw.random() < 0.8 else LinkFaults(), apply_s=APPLY_S if draw.random() < 0.8 else 0.0,
    )  # fmt: skip
    check(run, problem, RULES[rule], rates)
    assert run.slices >= 9, run.say("expected the large parameters in several slices")


@pytest.mark.parametrize("seed", range(4))
def test_one_commit_per_clock_and_never_one_per_push(seed: int) -> None:
    problem = Problem(seed, workers=3, clocks=6, repeated=True)
    run = simulate(problem.train, seed=seed, optimizer="momentum:lr=0.1,decay=0.8")
    for slice_id in range(run.slices):
        commits = run.commits(slice_id)
        assert [c.version for c in commits] == list(range(1, 7)), run.say(f"versions of slice {slice_id}")
        for clock, commit in enumerate(commits):
            ranks = [push.worker for push in commit.contributions]
            expected = [rank for rank in range(3) for _ in problem.pushes(rank, clock)]
            assert ranks == expected, run.say(f"slice {slice_id}, clock {clock}: contributions of {ranks}")
            assert commit.staleness == 0 and not commit.late, run.say(f"slice {slice_id}, clock {clock}: {commit}")


def whole_batch_gradient(w: Array, x: Array, y: Array) -> Array:
    """Of the mean logistic loss."""
    margin = x.astype(np.float64) @ w.astype(np.float64)
    return np.asarray(x.astype(np.float64).T @ (1 / (1 + np.exp(-margin)) - y) / len(y))


@pytest.mark.parametrize("seed", range(5))
def test_the_committed_gradient_is_the_whole_batchs_to_rounding(seed: int) -> None:
    """Logistic regression; every worker has a batch of another size and pushes its mean gradient, weighted with it."""
    rng = np.random.default_rng(seed)
    workers = int(rng.integers(2, 6))
    sizes = rng.integers(1, 40, workers)
    x = rng.standard_normal((int(sizes.sum()), 50)).astype(np.float32)
    y = (rng.random(len(x)) < 0.5).astype(np.float64)
    starts = np.cumsum(sizes) - sizes

    def train(client: Client) -> list[Array]:
        client.register({"w": np.zeros(50, np.float32)})
        mine = slice(starts[client.rank], starts[client.rank] + sizes[client.rank])
        read = []
        for _ in range(6):
            w = client.pull()["w"]
            read.append(w)
            client.push({"w": whole_batch_gradient(w, x[mine], y[mine])}, weight=float(sizes[client.rank]))
            client.tick()
        return [*read, client.pull()["w"]]

    run = simulate(train, seed=seed, workers=workers, optimizer="sgd:lr=1")
    read = run.results[0]
    for clock, (before, after) in enumerate(itertools.pairwise(read)):
        want = before.astype(np.float64) - whole_batch_gradient(before, x, y)
        assert relative(after, want) < 1e-6, run.say(f"clock {clock}: off by {relative(after, want):g} of its norm")
