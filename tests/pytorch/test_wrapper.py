"""One script under every model, and what users do to gradients, parameters and models."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ps
import ps.torch
from ps.errors import ConfigError, Error
from tests.pytorch.models import Problem, flat

MODELS = [
    {"consistency": "bsp"},
    {"consistency": "ssp:staleness=3"},
    {"consistency": "quorum:n=1"},
    {"consistency": "async"},
    {"consistency": "downpour:push_every=2,pull_every=2"},
    {"consistency": "local:every=4", "optimizer": "sgd:lr=1"},
    {"consistency": "local:every=4", "optimizer": "nesterov:lr=0.7,decay=0.5"},
    {"consistency": "bsp", "compression": "onebit:min_elements=0"},
    {"consistency": "ssp:staleness=3", "compression": "onebit:min_elements=0"},
    {"consistency": "bsp", "push_compression": "topk:ratio=0.2,min_elements=0"},
]


def script(problem: Problem, steps: int = 80) -> Callable[[ps.Client], torch.Tensor]:
    """Knows nothing of consistency or compression."""

    def train(client: ps.Client) -> torch.Tensor:
        model = problem.copy()
        own = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)
        optimizer = ps.torch.DistributedOptimizer(own, model, client)
        for step in range(steps):
            optimizer.zero_grad()
            problem.loss(model, step, client.rank).backward()
            optimizer.step()
        client.barrier()
        return flat(model)

    return train


def run(train: Callable[[ps.Client], Any], workers: int = 1, **options: Any) -> list[Any]:
    with ps.LocalCluster(workers=workers, **options) as cluster:
        return cluster.run(train)


def values_of(problem: Problem, parameters: torch.Tensor) -> nn.Module:
    model = problem.copy()
    nn.utils.vector_to_parameters(parameters, model.parameters())
    return model


@pytest.mark.parametrize("options", MODELS, ids=lambda options: ",".join(options.values()))
def test_one_script_under_every_model(options: dict[str, str]) -> None:
    problem = Problem("mlp")
    before = problem.whole_loss(problem.model)
    values = run(script(problem), workers=2, servers=2, seed=1, **options)
    assert all(problem.whole_loss(values_of(problem, one)) < 0.5 * before for one in values)


def test_local_steps_alone_are_those_of_the_wrapped_optimizer() -> None:
    """One worker and `sgd:lr=1` outside: what it has moved is what the servers take over."""
    problem = Problem("mlp", dtype=torch.float64)
    values = run(script(problem, steps=12), consistency="local:every=4", optimizer="sgd:lr=1")
    model = problem.copy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)
    for step in range(12):
        optimizer.zero_grad()
        problem.loss(model, step, 0).backward()
        optimizer.step()
    torch.testing.assert_close(values[0], flat(model), rtol=1e-12, atol=1e-14)


def one_worker(use: Callable[[nn.Module, ps.torch.DistributedOptimizer, Problem], Any], **wrapper: Any) -> Any:
    """What `use` gives in a cluster of one worker."""
    problem = Problem("mlp")

    def train(client: ps.Client) -> Any:
        model = problem.copy()
        own = torch.optim.SGD(model.parameters(), 0.1)
        return use(model, ps.torch.DistributedOptimizer(own, model, client, **wrapper), problem)

    return run(train)[0]


def test_a_gradient_that_changes_after_it_has_left_is_refused() -> None:
    def train(client: ps.Client) -> None:
        model = nn.Linear(1 << 10, 1 << 10)  # 4 MiB: leaves during backward
        optimizer = ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, client)
        model(torch.ones(2, 1 << 10)).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        with pytest.raises(ConfigError, match=r"gradient of '(weight|bias)': expected it unchanged since backward"):
            optimizer.step()

    run(train)


def test_one_backward_too_many_is_named() -> None:
    def use(model: nn.Module, optimizer: ps.torch.DistributedOptimizer, problem: Problem) -> None:
        problem.loss(model, 0, 0).backward()
        with pytest.raises(ConfigError, match=r"expected 1 calls of backward per step, got one more; say accumulate="):
            problem.loss(model, 1, 0).backward()

    one_worker(use)


@pytest.mark.parametrize("way", ["accumulate", "no_sync"])
def test_gradients_accumulate_as_in_torch(way: str) -> None:
    def use(model: nn.Module, optimizer: ps.torch.DistributedOptimizer, problem: Problem) -> torch.Tensor:
        for step in range(3):
            optimizer.zero_grad()
            if way == "accumulate":
                problem.loss(model, step, 0).backward()
            else:
                with optimizer.no_sync():
                    problem.loss(model, step, 0).backward()
            problem.loss(model, step, 1).backward()
            optimizer.step()
        optimizer.synchronize()
        return flat(model)

    values = one_worker(use, accumulate=2 if way == "accumulate" else 1)
    problem = Problem("mlp")
    model = problem.copy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        for worker in range(2):
            problem.loss(model, step, worker).backward()
        optimizer.step()
    torch.testing.assert_close(values, flat(model))


def test_a_scaler_drops_a_step_that_has_overflowed() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

    def use(model: nn.Module, optimizer: ps.torch.DistributedOptimizer, problem: Problem) -> None:
        before = flat(model)
        scaler.scale(problem.loss(model, 0, 0) * float("inf")).backward()
        optimizer.step()
        scaler.update()
        optimizer.synchronize()
        assert torch.equal(flat(model), before) and scaler.get_scale() == 1.0
        optimizer.zero_grad()
        loss = problem.loss(model, 0, 0)
        expected = before - 0.1 * torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        scaler.scale(problem.loss(model, 0, 0)).backward()
        optimizer.step()
        optimizer.synchronize()
        torch.testing.assert_close(flat(model), expected)

    one_worker(use, scaler=scaler)


class Uneven(nn.Module):
    """Tied, frozen, conditionally used and bypassed parameters, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(8, 32), nn.Linear(32, 8, bias=False)
        self.head.weight = self.embedding.weight
        self.sometimes, self.bypassed = nn.Linear(32, 32), nn.Linear(32, 32)
        self.norm = nn.BatchNorm1d(32)
        self.fixed = nn.Parameter(torch.full((64, 32), 0.01), requires_grad=False)

    def forward(self, x: torch.Tensor, use: bool) -> torch.Tensor:
        h = self.norm(nn.functional.linear(self.embedding(x), self.bypassed.weight, self.bypassed.bias))
        if use:
            h = self.sometimes(h)
        logits: torch.Tensor = self.head(h + self.fixed.sum())
        return logits


def test_tied_frozen_unused_and_bypassed_parameters() -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for step in range(8):
            optimizer.zero_grad()
            x = torch.arange(8).roll(step)
            nn.functional.cross_entropy(model(x, step % 2 == 0), x).backward()
            optimizer.step()

    with torch.random.fork_rng():
        torch.manual_seed(3)
        start = Uneven().double().state_dict()

    def model_at_start() -> Uneven:
        model = Uneven().double()
        model.load_state_dict(start)
        return model

    def train(client: ps.Client) -> dict[str, torch.Tensor]:
        model = model_at_start()
        own = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        optimizer = ps.torch.DistributedOptimizer(own, model, client)
        steps(model, optimizer)
        return model.state_dict()  # waits for what is under way

    trained = run(train, servers=2)[0]
    model = model_at_start()
    steps(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_the_state_of_a_model_goes_round() -> None:
    def use(model: nn.Module, optimizer: ps.torch.DistributedOptimizer, problem: Problem) -> None:
        problem.loss(model, 0, 0).backward()
        optimizer.step()
        model_state, state = model.state_dict(), optimizer.state_dict()
        other = problem.copy()
        other.load_state_dict(model_state)
        optimizer.load_state_dict(state)
        assert torch.equal(flat(other), flat(model)) and optimizer.param_groups is optimizer.inner.param_groups

    one_worker(use)


def test_half_precision_parameters() -> None:
    """The servers keep float32; workers hold what that rounds to."""

    def train(client: ps.Client) -> torch.Tensor:
        model = nn.Linear(64, 32, dtype=torch.bfloat16)
        nn.init.constant_(model.weight, 0.5)
        optimizer = ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), 2.0**-12), model, client)
        for _ in range(16):  # each step alone is lost in bfloat16
            optimizer.zero_grad()
            model(torch.ones(1, 64, dtype=torch.bfloat16)).sum().backward()
            optimizer.step()
        optimizer.synchronize()
        return model.weight.detach()

    assert torch.equal(run(train)[0], torch.full((32, 64), 0.5 - 2.0**-8, dtype=torch.bfloat16))


def test_a_compiled_model_trains_as_it_is() -> None:
    problem = Problem("mlp")

    def train(client: ps.Client) -> torch.Tensor:
        model = problem.copy()
        compiled = torch.compile(model, backend="eager")
        assert isinstance(compiled, nn.Module)
        optimizer = ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), compiled, client)
        for step in range(5):
            optimizer.zero_grad()
            problem.loss(compiled, step, 0).backward()
            optimizer.step()
        optimizer.synchronize()
        return flat(model)

    model = problem.copy()
    own = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(5):
        own.zero_grad()
        problem.loss(model, step, 0).backward()
        own.step()
    torch.testing.assert_close(run(train)[0], flat(model))


WRONG: list[tuple[Callable[[nn.Module], torch.optim.Optimizer], str]] = [
    (lambda m: torch.optim.LBFGS(m.parameters()), "expected one of torch.optim.SGD, Adam, AdamW, Adagrad, RMSprop"),
    (lambda m: torch.optim.Adam(m.parameters(), amsgrad=True), "Adam: amsgrad: expected False, got True"),
    (lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9, dampening=0.5), "SGD: dampening: expected 0, got 0.5"),
    (lambda m: torch.optim.SGD(m.parameters(), 0.1, maximize=True), "SGD: maximize: expected False, got True"),
    (lambda m: torch.optim.SGD(m.parameters(), 0.0), "lr: expected a group with a rate > 0 at the start, got 0.0"),
    (
        lambda m: torch.optim.SGD([{"params": [p], "momentum": i / 10} for i, p in enumerate(m.parameters())], 0.1),
        "group 1: expected it to differ from group 0 in lr and weight_decay at most",
    ),
    (lambda m: torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.1), "expected only parameters of the model"),
]


@pytest.mark.parametrize(("make", "why"), WRONG, ids=range(len(WRONG)))
def test_what_servers_cannot_do_is_refused(make: Callable[[nn.Module], torch.optim.Optimizer], why: str) -> None:
    def train(client: ps.Client) -> None:
        model = Problem("mlp").copy()
        with pytest.raises(ConfigError, match=re.escape(why)):
            ps.torch.DistributedOptimizer(make(model), model, client)

    run(train)


def test_an_optimizer_named_twice_is_refused() -> None:
    def train(client: ps.Client) -> None:
        model = Problem("mlp").copy()
        with pytest.raises(ConfigError, match=r"expected sgd:lr=0.1 as the script brings it.*got adam:lr=1"):
            ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, client)

    run(train, optimizer="adam:lr=1")


def test_models_that_differ_between_workers_are_named() -> None:
    def train(client: ps.Client) -> None:
        model = nn.Linear(8, 4 + client.rank)
        ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, client)

    with pytest.raises(Error, match=r"worker [01]: register: .*weight.*\(4, 8\)|\(5, 8\)"):
        run(train, workers=2)


def test_optimizers_that_differ_between_workers_are_named() -> None:
    def train(client: ps.Client) -> None:
        model = nn.Linear(8, 4)
        own = torch.optim.SGD(model.parameters(), 0.1 * (1 + client.rank))
        ps.torch.DistributedOptimizer(own, model, client)

    with pytest.raises(Error, match=r"register: optimizer: expected sgd:lr=0\.[12] as in the first batch, got sgd"):
        run(train, workers=2)


def test_other_ways_to_share_a_model_are_refused() -> None:
    class FullyShardedDataParallel(nn.Linear):
        pass

    def train(client: ps.Client) -> None:
        model = FullyShardedDataParallel(2, 2)
        with pytest.raises(ConfigError, match="expected one that exchanges no gradients itself, got FullySharded"):
            ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, client)

    run(train)


def test_parameters_stay_where_they_were_registered() -> None:
    def use(model: nn.Module, optimizer: ps.torch.DistributedOptimizer, problem: Problem) -> None:
        with pytest.raises(
            ConfigError, match="add_param_group: expected all parameters when the optimizer was wrapped"
        ):
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
        problem.loss(model, 0, 0).backward()
        first = next(model.parameters())
        first.data = first.data.clone()
        with pytest.raises(
            ConfigError, match=r"parameter '0\.weight': expected the tensor that the optimizer was made"
        ):
            optimizer.step()

    one_worker(use)


def test_a_gradient_of_nan_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    def use(model: nn.Module, optimizer: ps.torch.DistributedOptimizer, problem: Problem) -> None:
        before = flat(model)
        (problem.loss(model, 0, 0) * float("nan")).backward()
        optimizer.step()
        optimizer.synchronize()
        assert torch.equal(flat(model), before)

    one_worker(use)
    assert "push at clock 0 dropped: NaN or Inf in 0.weight" in caplog.text


def test_values_are_there_when_a_module_of_torch_reads_its_inner_parameters() -> None:
    """Attention never calls its output projection: it has to wait for it itself."""
    attention = nn.MultiheadAttention(512, 4, batch_first=True)
    x = np.random.default_rng(0).standard_normal((1, 4, 512)).astype(np.float32)

    def train(client: ps.Client) -> torch.Tensor:
        model = copy.deepcopy(attention)
        optimizer = ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, client)
        for _ in range(4):
            optimizer.zero_grad()
            given = torch.from_numpy(x)
            model(given, given, given)[0].square().mean().backward()
            optimizer.step()
        optimizer.synchronize()
        return flat(model)

    trained = run(train, servers=2)[0]
    own = torch.optim.SGD(attention.parameters(), 0.1)
    for _ in range(4):
        own.zero_grad()
        given = torch.from_numpy(x)
        attention(given, given, given)[0].square().mean().backward()
        own.step()
    torch.testing.assert_close(trained, flat(attention))
