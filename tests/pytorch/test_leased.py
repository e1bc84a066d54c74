"""Leased data through torch's DataLoader, and a wrapped model whose worker has idle clocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ps
import ps.torch
from tests.pytorch.models import Problem, run

EXAMPLES = 50


def through(method: str | None) -> Any:
    """Makes a loader: two processes that start in this way, or none."""
    x = torch.arange(EXAMPLES)
    more: dict[str, Any] = {} if method is None else dict(num_workers=2, multiprocessing_context=method)
    return lambda batches: DataLoader(TensorDataset(x, -x), batch_sampler=batches, **more)


@pytest.mark.parametrize("method", [None, "fork", pytest.param("forkserver", marks=pytest.mark.soak), "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # fork, from Python 3.12 on
def test_a_data_loader_makes_the_batches(method: str | None) -> None:
    """Its processes get indices only; the client stays here."""

    def train(client: ps.Client) -> list[int]:
        client.register({"w": torch.zeros(1).numpy()})
        seen: list[int] = []
        for x, y in ps.data.leased(EXAMPLES, client, batch=4, epochs=2, lease=10, loader=through(method)):
            assert torch.equal(x, -y) and len(x) <= 4
            client.pull()
            client.push({"w": torch.ones(1).numpy()}, weight=len(x))
            client.tick()
            seen += x.tolist()
        return seen

    [seen] = run(train, workers=1)
    assert sorted(seen) == sorted(2 * list(range(EXAMPLES)))


@pytest.mark.parametrize("model", ["bsp", "async"])
def test_data_loaders_of_several_workers_share_the_data_out(model: str) -> None:
    def train(client: ps.Client) -> list[int]:
        client.register({"w": torch.zeros(1).numpy()})
        seen: list[int] = []
        for x, _ in ps.data.leased(EXAMPLES, client, batch=4, epochs=2, lease=10, loader=through(None)):
            client.pull()
            client.push({"w": torch.ones(1).numpy()}, weight=len(x))
            client.tick()
            seen += x.tolist()
        return seen

    parts = run(train, workers=3, consistency=model)
    assert sorted(i for part in parts for i in part) == sorted(2 * list(range(EXAMPLES)))


def test_a_wrapped_model_follows_the_others_through_idle_clocks() -> None:
    """Worker 0 has nothing left and closes clocks without a gradient, until worker 1 leaves it some of its own."""
    problem, batch = Problem("mlp"), 4
    idle: list[int] = []

    def batches(client: ps.Client) -> Iterator[torch.Tensor]:
        leased = ps.data.leased(9 * batch, client, batch=batch, epochs=1, lease=6 * batch)
        for computed, indices in enumerate(leased):
            if computed == 5 and not idle:
                idle.append(client.rank)
                return  # the other has computed three batches, and waits
            yield torch.from_numpy(indices)

    def train(client: ps.Client) -> tuple[int, int]:
        model = problem.copy()
        own = torch.optim.SGD(model.parameters(), 0.1)
        optimizer = ps.torch.DistributedOptimizer(own, model, client)
        steps = 0
        for rows in batches(client):
            optimizer.synchronize()
            values = client.pull()  # under bsp exactly the version of this clock
            for name, parameter in model.named_parameters():
                assert torch.equal(parameter.data, torch.from_numpy(values[name])), (client.rank, client.clock, name)
            optimizer.zero_grad()
            optimizer.examples = len(rows)
            nn.functional.cross_entropy(model(problem.x[rows]), problem.y[rows]).backward()
            optimizer.step()
            steps += 1
        return steps, client.clock

    results = run(train, workers=2, consistency="bsp")
    assert sum(steps for steps, _ in results) == 9
    steps, clock = results[1 - idle[0]]
    assert steps == 4 and clock > steps, "it had idle clocks"


@pytest.mark.parametrize("model", ["local:every=6", "local:every=12,fragments=2,overlap=1", "async_local:every=6"])
def test_a_slower_worker_takes_fewer_steps_a_round(model: str) -> None:
    """Dynamic local updates: with Adam inside, one worker at a third of the other's speed, in virtual time."""
    problem = Problem("mlp")

    def train(client: ps.Client) -> tuple[int, int, torch.Tensor]:
        own = problem.copy()
        optimizer = ps.torch.DistributedOptimizer(torch.optim.Adam(own.parameters()), own, client)
        steps = 0
        for indices in ps.data.leased(EXAMPLES, client, batch=2, epochs=8, lease=24, balanced=True):
            client.spend(0.1 * (1 + 2 * client.rank) * len(indices))
            rows = torch.from_numpy(indices) % len(problem.y)
            optimizer.zero_grad()
            nn.functional.cross_entropy(own(problem.x[rows]), problem.y[rows]).backward()
            optimizer.step()
            steps += 1
        optimizer.synchronize()
        client.barrier()
        values = client.pull()
        return steps, client.clock, torch.cat([torch.from_numpy(v).flatten() for _, v in sorted(values.items())])

    (fast, clock, values), (slow, other, others) = run(train, 2, consistency=model, optimizer="sgd:lr=1", seed=1)
    assert fast > 2 * slow and fast + slow == EXAMPLES * 8 // 2
    if model.startswith("local"):
        assert clock == other
    if model == "local:every=6":
        assert torch.equal(values, others)


@pytest.mark.parametrize(
    "options",
    [
        dict(consistency="bsp"),
        dict(consistency="ssp:staleness=3"),
        dict(consistency="quorum:n=1"),
        dict(consistency="async"),
        dict(consistency="downpour:push_every=2,pull_every=2"),
        dict(consistency="local:every=4", optimizer="sgd:lr=1"),
        dict(consistency="local:every=4,fragments=2,overlap=1", optimizer="sgd:lr=1"),
        dict(consistency="async_local:every=4", optimizer="sgd:lr=1"),
        dict(consistency="easgd:alpha=0.3,every=4", optimizer="add"),
    ],
    ids=lambda options: options["consistency"],
)
def test_a_wrapped_model_trains_on_leased_data_under_every_model(options: dict[str, Any]) -> None:
    problem = Problem("mlp")
    x, y = problem.x.numpy(), problem.y.numpy()

    def train(client: ps.Client) -> tuple[int, torch.Tensor]:
        model, seen = problem.copy(), 0
        own = torch.optim.SGD(model.parameters(), 0.1)
        optimizer = ps.torch.DistributedOptimizer(own, model, client)
        for rows, labels in ps.data.leased((x, y), client, batch=5, epochs=6, lease=10):
            optimizer.zero_grad()
            optimizer.examples = len(rows)
            nn.functional.cross_entropy(model(torch.from_numpy(rows)), torch.from_numpy(labels)).backward()
            optimizer.step()
            seen += len(rows)
        model.state_dict()  # waits for what is under way
        return seen, torch.cat([p.detach().flatten() for p in model.parameters()])

    results = run(train, workers=3, **options)
    assert sum(seen for seen, _ in results) == 6 * len(x)
    start = problem.whole_loss(torch.cat([p.detach().flatten() for p in problem.model.parameters()]))
    for _, values in results:
        assert problem.whole_loss(values) < 0.95 * start
