"""Linear layers whose gradients travel as factors: the same training, in the bytes of the formula; dense where not.

Factors are float32 (float64 travels dense): the server sums the K products of an element in another order than torch,
so a step differs by up to K roundings of |U| |V|, 2^-24 each. K = 8 and 20 steps at rate 0.05: below 20 x 0.05 x 8 x
2^-24 = 5e-7 of the values, where |U| |V| is not above them; BOUND is twice that, and 2e-8 is what comes out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import ps
import ps.torch
from ps.cost import Machine, factor_bytes
from tests.pytorch.models import BATCH, Problem, alone, distance, flat, run

FAST = Machine(server_flops=float("inf"))  # factors whenever they are fewer bytes
NEVER = Machine(server_flops=1.0)
BOUND = 1e-6
M, N = 96, 64  # of a layer; its 24 kB are a slice
Batch = Callable[[nn.Module, int], torch.Tensor]  # the loss of a model in this step
Loop = Callable[[nn.Module, Any, int], None]  # backward of one step


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.05)


def sent(client: ps.Client) -> int:
    return client.metrics.snapshot().total("push_bytes", direction="sent")


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make()


def normal(step: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def backward(loss: Batch) -> Loop:
    return lambda model, optimizer, step: loss(model, step).backward()


def square(model: nn.Module, step: int) -> torch.Tensor:
    loss: torch.Tensor = model(normal(step, BATCH, N)).square().mean()
    return loss


class Outcome:
    """Of one worker: its model at the end, and what each step has sent."""

    def __init__(self, model: nn.Module, nbytes: list[int]) -> None:
        self.values, self.nbytes = flat(model), nbytes

    @property
    def thin(self) -> list[bool]:
        """Whether each step has sent less than the gradient."""
        return [nbytes < 4 * len(self.values) for nbytes in self.nbytes]


def trained(
    make: Callable[[], nn.Module],
    loop: Loop,
    steps: int = 4,
    machine: Machine = FAST,
    wrapper: dict[str, Any] | None = None,
    **options: Any,
) -> Outcome:
    """One worker's; checked against the same loop without ps."""

    def train(client: ps.Client) -> Outcome:
        model = seeded(make)
        optimizer = ps.torch.DistributedOptimizer(sgd(model), model, client, **(wrapper or {}))
        client._worker.schemes.machine = machine
        nbytes = []
        for step in range(steps):
            before = sent(client)
            optimizer.zero_grad()
            loop(model, optimizer, step)
            optimizer.step()
            optimizer.synchronize()
            nbytes.append(sent(client) - before)
        return Outcome(model, nbytes)

    outcome: Outcome = run(train, **options)[0]
    model = seeded(make)
    plain = sgd(model)
    for step in range(steps):
        plain.zero_grad()
        loop(model, plain, step)
        plain.step()
    assert distance(outcome.values, flat(model)) < (1e-2 if outcome.values.dtype == torch.bfloat16 else BOUND)
    return outcome


def linear() -> nn.Module:
    return nn.Linear(N, M, bias=False)


# ---- the same training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 2])
def test_two_workers_train_as_one_process_does(servers: int) -> None:
    problem, steps = Problem("mlp"), 20

    def train(client: ps.Client) -> tuple[torch.Tensor, int]:
        model = problem.copy()
        optimizer = ps.torch.DistributedOptimizer(sgd(model), model, client)
        client._worker.schemes.machine = FAST
        for step in range(steps):
            optimizer.zero_grad()
            problem.loss(model, step, client.rank).backward()
            optimizer.step()
        client.barrier()
        optimizer.synchronize()
        return flat(model), sent(client)

    outcomes = run(train, workers=2, servers=servers)
    square, rest = factor_bytes(BATCH, 48, 48, 1, 1), 12 * 48 + 48 + 48 + 48 * 4 + 4  # small ones share a dense slice
    for values, nbytes in outcomes:
        assert torch.equal(values, outcomes[0][0])
        assert nbytes == steps * (square + 4 * rest)
        assert 0 < distance(values, alone(problem, sgd, 2, steps)) < BOUND


def test_one_layer_sends_the_bytes_of_the_formula() -> None:
    assert trained(linear, backward(square)).nbytes == [factor_bytes(BATCH, M, N, 1, 1)] * 4


def test_a_large_layer_leaves_during_backward_as_factors() -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        model(normal(step, BATCH, 1024)).square().mean().backward()

    assert (
        trained(lambda: nn.Linear(1024, 1024, bias=False), loop, 2).nbytes
        == [factor_bytes(BATCH, 1024, 1024, 1, 1)] * 2
    )


class Recurrent(nn.Module):
    """One layer, called three times; the last call has more positions."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(N, N, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.cell(torch.tanh(self.cell(x)))
        last: torch.Tensor = self.cell(torch.stack((h, x), 1))
        return last


def test_rows_of_all_calls_count() -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        model(normal(step, 4, N)).square().mean().backward()

    assert trained(Recurrent, loop).nbytes == [factor_bytes(4 + 4 + 8, N, N, 1, 1)] * 4


class TiedLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(N, N, bias=False), nn.Linear(N, N, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return y


def test_two_layers_with_one_weight_append_rows() -> None:
    assert trained(TiedLayers, backward(square)).nbytes == [factor_bytes(2 * BATCH, N, N, 1, 1)] * 4


@pytest.mark.parametrize("shape", [(N,), (3, 4, N), (2, 3, 2, N), (0, N)], ids=str)
def test_positions_are_rows(shape: tuple[int, ...]) -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        model(input=normal(step, *shape)).square().sum().mul(0.01).backward()

    k = torch.Size(shape[:-1]).numel()
    assert trained(linear, loop).nbytes == [factor_bytes(k, M, N, 1, 1)] * 4


@pytest.mark.parametrize("way", ["accumulate", "no_sync"])
def test_rows_of_several_calls_of_backward_count(way: str) -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        if way == "no_sync" and hasattr(optimizer, "no_sync"):
            with optimizer.no_sync():
                square(model, 2 * step).backward()
        else:
            square(model, 2 * step).backward()
        square(model, 2 * step + 1).backward()

    wrapper = {"accumulate": 2} if way == "accumulate" else {}
    assert trained(linear, loop, wrapper=wrapper).nbytes == [factor_bytes(2 * BATCH, M, N, 1, 1)] * 4


def test_gradients_that_are_set_to_zero_instead_of_none() -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        optimizer.zero_grad(set_to_none=False)
        square(model, step).backward()

    assert all(trained(linear, loop).thin)


def test_passes_without_backward_do_not_count() -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        square(model, step + 100)
        with torch.no_grad():
            square(model, step + 200)
        square(model, step).backward()

    assert all(trained(linear, loop).thin)


# ---- dense ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [38, 39])
def test_the_rule_decides_by_all_rows(k: int) -> None:
    """(M N - 4) / (M + N) = 38.375; with two calls, each alone would be worth it."""

    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        (model(normal(step, 20, N)).square().sum() + model(normal(step + 50, k - 20, N)).square().sum()).mul(
            1e-3
        ).backward()

    assert trained(linear, loop).thin == [k == 38] * 4


def test_one_large_batch_is_dense_for_one_step() -> None:
    def uneven(model: nn.Module, optimizer: Any, step: int) -> None:
        large = model(normal(step + 50, 60, N)).square().mean() if step == 1 else 0
        (square(model, step) + large).backward()

    assert trained(linear, uneven).thin == [True, False, True, True]


def test_nothing_is_kept_where_dense_takes_less_time() -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        y = model(normal(step, BATCH, N))
        assert y._backward_hooks is None
        y.square().mean().backward()

    assert not any(trained(linear, loop, machine=NEVER).thin)


class AlsoElsewhere(nn.Module):
    """A weight that is used outside of its module, too: as a penalty, a matrix or an embedding."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer = way, nn.Linear(N, M, bias=False)
        if way == "tied":
            self.letters = nn.Embedding(M, N)
            self.letters.weight = self.layer.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, y = self.layer.weight, self.layer(x)
        if self.way == "penalty":
            other = 1e-4 * weight.square().sum()
        elif self.way == "matrix":
            other = nn.functional.linear(x, weight).sum() / 100
        else:
            other = self.letters(torch.arange(BATCH)).sum() / 100
        loss: torch.Tensor = y.square().mean() + other
        return loss


@pytest.mark.parametrize("way", ["penalty", "matrix", "tied"])
def test_a_weight_used_elsewhere_is_dense(way: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ps")

    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        model(normal(step, BATCH, N)).backward()

    assert not any(trained(lambda: AlsoElsewhere(way), loop).thin)
    assert caplog.text.count("dense, as its gradient is not only that of its module's calls") == 1


def double_after_backward(model: nn.Module, optimizer: Any, step: int) -> None:
    square(model, step).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(2)


def input_changes_after_backward(model: nn.Module, optimizer: Any, step: int) -> None:
    x = normal(step, BATCH, N)
    model(x).square().mean().backward()
    x.zero_()


def input_gradient_alone(model: nn.Module, optimizer: Any, step: int) -> None:
    x = normal(step, BATCH, N).requires_grad_()
    model(x).sum().backward(inputs=[x])
    square(model, step).backward()


def autocast(model: nn.Module, optimizer: Any, step: int) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y = model(normal(step, BATCH, N))
    y.float().square().mean().backward()


@pytest.mark.parametrize("loop", [double_after_backward, input_changes_after_backward, input_gradient_alone, autocast])
def test_what_the_script_may_do_between(loop: Loop) -> None:
    assert not any(trained(linear, loop).thin)


def test_a_hook_on_the_weight_makes_it_dense() -> None:
    def make() -> nn.Module:
        layer = nn.Linear(N, M, bias=False)
        layer.weight.register_hook(lambda grad: grad.clamp(-1e-3, 1e-3))
        return layer

    assert not any(trained(make, backward(square)).thin)


def test_a_gradient_that_changes_after_it_has_left_is_refused() -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        model(normal(step, BATCH, 1024)).square().mean().backward()
        next(model.parameters()).grad.mul_(2)  # type: ignore[union-attr]

    with pytest.raises(ps.errors.ConfigError, match="expected it unchanged since backward"):
        trained(lambda: nn.Linear(1024, 1024, bias=False), loop)


@pytest.mark.parametrize("wrapper", [{"clip_norm": 1e3}, {"scaler": torch.amp.GradScaler("cpu", enabled=False)}])
def test_what_needs_the_whole_gradient_is_dense(wrapper: dict[str, Any]) -> None:
    assert not any(trained(linear, backward(square), wrapper=wrapper).thin)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_dense(dtype: torch.dtype) -> None:
    def loop(model: nn.Module, optimizer: Any, step: int) -> None:
        model(normal(step, BATCH, N).to(dtype)).square().mean().backward()

    assert not any(trained(lambda: linear().to(dtype), loop).thin)


@pytest.mark.parametrize("part", [False, True])
def test_compiled_layers_are_dense(part: bool) -> None:
    def make() -> nn.Module:
        layer = linear()
        if part:
            layer.compile(backend="eager")
            return nn.Sequential(layer)
        compiled = torch.compile(layer, backend="eager")
        assert isinstance(compiled, nn.Module)
        return compiled

    assert not any(trained(make, backward(square)).thin)


def test_a_gradient_of_nan_is_dropped_and_changes_no_choice() -> None:
    def train(client: ps.Client) -> list[int]:
        model = seeded(linear)
        optimizer = ps.torch.DistributedOptimizer(sgd(model), model, client)
        client._worker.schemes.machine = FAST
        nbytes = []
        for scale in (float("nan"), 1.0):
            before = sent(client)
            optimizer.zero_grad()
            (scale * square(model, 0)).backward()
            optimizer.step()
            nbytes.append(sent(client) - before)
        return nbytes

    assert run(train) == [[0, factor_bytes(BATCH, M, N, 1, 1)]]


def test_the_link_is_measured_where_there_is_a_choice() -> None:
    def train(client: ps.Client) -> tuple[bool, bool]:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(N, M).double())  # travel in a bundle, and in float64
        ps.torch.DistributedOptimizer(sgd(model), model, client)
        return client._worker.link > 0, client._worker.schemes.machine.link_bytes_per_s == Machine().link_bytes_per_s

    def measured(client: ps.Client) -> tuple[bool, bool]:
        model = linear()
        ps.torch.DistributedOptimizer(sgd(model), model, client)
        return client._worker.link > 0, client._worker.schemes.machine.link_bytes_per_s == client._worker.link

    assert run(train) == [(False, True)]
    assert run(measured) == [(True, True)]


def test_the_choice_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ps")
    trained(linear, backward(square))
    assert caplog.text.count("'weight': factors, 5.1 kB instead of 24.6 kB per push: K = 8") == 1
