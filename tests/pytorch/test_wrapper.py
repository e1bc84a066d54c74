"""One script under every model, and what users do to gradients, parameters and models."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ps
from ps.errors import ConfigError, Error
from ps.torch import DistributedOptimizer
from tests.pytorch.models import Optimizers, Problem, alone, flat, run, together
from tests.runs import MODELS

MLP = Problem("mlp")
State = dict[str, torch.Tensor]  # of a model, by name


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)


def with_momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), 0.01)


def wrapped(
    use: Callable[[nn.Module, DistributedOptimizer], None],
    model: nn.Module = MLP.model,
    make: Optimizers = sgd,
    servers: int = 1,
    **wrapper: Any,
) -> State:
    """That of a copy of `model` after `use(copy, its wrapped optimizer)` in a cluster of one worker."""

    def train(client: ps.Client) -> State:
        mine = copy.deepcopy(model)
        use(mine, DistributedOptimizer(make(mine), mine, client, **wrapper))
        return mine.state_dict()  # waits for what is under way

    state: State = run(train, servers=servers)[0]
    return state


def plain(use: Callable[[nn.Module, torch.optim.Optimizer], None], model: nn.Module = MLP.model) -> State:
    """The same without ps."""
    mine = copy.deepcopy(model)
    use(mine, sgd(mine))
    return mine.state_dict()


def refused(why: str, model: nn.Module = MLP.model, make: Optimizers = sgd, **options: Any) -> None:
    """Wrapping is, in a cluster with these options; `why` is a pattern."""

    def train(client: ps.Client) -> None:
        mine = copy.deepcopy(model)
        with pytest.raises(ConfigError, match=why):
            DistributedOptimizer(make(mine), mine, client)

    run(train, **options)


@pytest.mark.parametrize("options", MODELS, ids=lambda options: ",".join(options.values()))
def test_one_script_under_every_model(options: dict[str, Any]) -> None:
    values = together(MLP, with_momentum, 2, 80, seed=1, **options)
    before = MLP.whole_loss(flat(MLP.model))
    assert all(MLP.whole_loss(one) < 0.5 * before for one in values)


@pytest.mark.parametrize("inner", [with_momentum, adamw])
@pytest.mark.parametrize("model", ["local", "async_local"])
def test_local_steps_alone_are_those_of_the_wrapped_optimizer(model: str, inner: Optimizers) -> None:
    """One worker and `sgd:lr=1` outside: what it has moved is what the servers take over."""
    problem = Problem("mlp", dtype=torch.float64)
    values = together(problem, inner, 1, 12, servers=1, consistency=f"{model}:every=4", optimizer="sgd:lr=1")
    torch.testing.assert_close(values[0], alone(problem, inner, 1, 12), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("every", "fragments", "overlap", "mix"), [(4, 2, 0, 0.0), (6, 3, 1, 0.5), (4, 4, 0, 0.25), (5, 1, 4, 0.5)]
)
def test_streaming_diloco_equals_its_formula(every: int, fragments: int, overlap: int, mix: float) -> None:
    """Douillard et al., arXiv 2501.18512, algorithm 2, as each of two workers has it at the end of 21 steps."""
    problem, decay = Problem("mlp", dtype=torch.float64), 0.5

    def bundles(client: ps.Client) -> list[tuple[str, ...]]:
        model = problem.copy()
        DistributedOptimizer(with_momentum(model), model, client)
        return client.bundles

    (slices,) = run(bundles)
    place = {name: i % fragments for i, names in enumerate(slices) for name in names}
    assert len(slices) == 3
    models = [problem.copy() for _ in range(2)]
    inner, own = [with_momentum(model) for model in models], [dict(model.named_parameters()) for model in models]
    theta = {name: one.detach().clone() for name, one in own[0].items()}
    anchor, velocity = dict(theta), {name: torch.zeros_like(one) for name, one in theta.items()}
    coming: list[tuple[int, str, torch.Tensor]] = []
    for clock in range(1, 22):
        for worker, model in enumerate(models):
            model.zero_grad()
            problem.loss(model, clock - 1, worker).backward()
            inner[worker].step()
        with torch.no_grad():
            for name in theta:
                if (clock - place[name] * every // fragments) % every == 0:
                    moved = anchor[name] - (own[0][name] + own[1][name]) / 2
                    velocity[name] = decay * velocity[name] + moved
                    theta[name] = theta[name] - 0.7 * (moved + decay * velocity[name])
                    coming.append((clock + overlap, name, theta[name]))
            for due, name, values in coming:
                if due == clock:
                    anchor[name] = values
                    for mine in own:
                        mine[name].copy_(mix * mine[name] + (1 - mix) * values)
    ends = together(
        problem, with_momentum, 2, 21, optimizer=f"nesterov:lr=0.7,decay={decay}",
        consistency=f"local:every={every},fragments={fragments},overlap={overlap},mix={mix}",
    )  # fmt: skip
    torch.testing.assert_close(ends, [flat(model) for model in models], rtol=1e-12, atol=1e-14)


def test_elastic_averaging_leaves_each_worker_its_own_model_and_momentum() -> None:
    """EAMSGD: as one process that steps with momentum and, every second step, gives a quarter of the way to a copy."""
    problem = Problem("mlp", dtype=torch.float64)

    def train(client: ps.Client) -> torch.Tensor:
        model = problem.copy()
        optimizer = DistributedOptimizer(with_momentum(model), model, client)
        for step in range(6):
            optimizer.zero_grad()
            problem.loss(model, step, 0).backward()
            optimizer.step()
        optimizer.synchronize()
        return flat(model)

    with ps.LocalCluster(consistency="easgd:alpha=0.25,every=2", optimizer="add") as cluster:
        (own,) = cluster.run(train)
        center = torch.cat(
            [torch.from_numpy(cluster.pull()[name]).flatten() for name, _ in problem.model.named_parameters()]
        )
    model = problem.copy()
    optimizer, middle = with_momentum(model), flat(model)
    for step in range(6):
        optimizer.zero_grad()
        problem.loss(model, step, 0).backward()
        optimizer.step()
        if step % 2:
            move = 0.25 * (flat(model) - middle)
            middle = middle + move
            nn.utils.vector_to_parameters(flat(model) - move, model.parameters())
    torch.testing.assert_close((own, center), (flat(model), middle), rtol=1e-12, atol=1e-14)


def test_a_gradient_that_changes_after_it_has_left_is_refused() -> None:
    def use(model: nn.Module, optimizer: DistributedOptimizer) -> None:
        model(torch.ones(2, 1 << 10)).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        with pytest.raises(ConfigError, match=r"gradient of '(weight|bias)': expected it unchanged since backward"):
            optimizer.step()

    wrapped(use, nn.Linear(1 << 10, 1 << 10))  # 4 MiB: leaves during backward


def test_one_backward_too_many_is_named() -> None:
    def use(model: nn.Module, optimizer: DistributedOptimizer) -> None:
        MLP.loss(model, 0, 0).backward()
        with pytest.raises(ConfigError, match=r"expected 1 calls of backward per step, got one more; say accumulate="):
            MLP.loss(model, 1, 0).backward()

    wrapped(use)


@pytest.mark.parametrize("way", ["accumulate", "no_sync"])
def test_gradients_accumulate_as_in_torch(way: str) -> None:
    def use(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        quiet = optimizer.no_sync if way == "no_sync" and isinstance(optimizer, DistributedOptimizer) else nullcontext
        for step in range(3):
            optimizer.zero_grad()
            with quiet():
                MLP.loss(model, step, 0).backward()
            MLP.loss(model, step, 1).backward()
            optimizer.step()

    trained = wrapped(use, accumulate=2 if way == "accumulate" else 1)
    torch.testing.assert_close(trained, plain(use))


def test_a_scaler_drops_a_step_that_has_overflowed() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

    def use(model: nn.Module, optimizer: DistributedOptimizer) -> None:
        before = flat(model)
        scaler.scale(MLP.loss(model, 0, 0) * float("inf")).backward()
        optimizer.step()
        scaler.update()
        optimizer.synchronize()
        assert torch.equal(flat(model), before) and scaler.get_scale() == 1.0
        optimizer.zero_grad()
        loss = MLP.loss(model, 0, 0)
        expected = before - 0.1 * torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        scaler.scale(MLP.loss(model, 0, 0)).backward()
        optimizer.step()
        optimizer.synchronize()
        torch.testing.assert_close(flat(model), expected)

    wrapped(use, scaler=scaler)


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
    def use(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for step in range(8):
            optimizer.zero_grad()
            x = torch.arange(8).roll(step)
            nn.functional.cross_entropy(model(x, step % 2 == 0), x).backward()
            optimizer.step()

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Uneven().double()
    trained = wrapped(use, model, servers=2)
    torch.testing.assert_close(trained, plain(use, model), rtol=1e-12, atol=1e-12)


def test_the_state_of_a_model_goes_round() -> None:
    def use(model: nn.Module, optimizer: DistributedOptimizer) -> None:
        MLP.loss(model, 0, 0).backward()
        optimizer.step()
        model_state, state = model.state_dict(), optimizer.state_dict()
        other = MLP.copy()
        other.load_state_dict(model_state)
        optimizer.load_state_dict(state)
        assert torch.equal(flat(other), flat(model)) and optimizer.param_groups is optimizer.inner.param_groups

    wrapped(use)


def test_half_precision_parameters() -> None:
    """The servers keep float32; workers hold what that rounds to."""
    model = nn.Linear(64, 32, dtype=torch.bfloat16)
    nn.init.constant_(model.weight, 0.5)

    def use(model: nn.Module, optimizer: DistributedOptimizer) -> None:
        for _ in range(16):  # each step alone is lost in bfloat16
            optimizer.zero_grad()
            model(torch.ones(1, 64, dtype=torch.bfloat16)).sum().backward()
            optimizer.step()

    trained = wrapped(use, model, lambda model: torch.optim.SGD(model.parameters(), 2.0**-12))
    assert torch.equal(trained["weight"], torch.full((32, 64), 0.5 - 2.0**-8, dtype=torch.bfloat16))


def test_a_compiled_model_trains_as_it_is() -> None:
    class Compiled(Problem):
        def copy(self) -> nn.Module:
            compiled = torch.compile(super().copy(), backend="eager")
            assert isinstance(compiled, nn.Module)
            return compiled

    torch.testing.assert_close(together(Compiled("mlp"), sgd, 1, 5, servers=1)[0], alone(MLP, sgd, 1, 5))


WRONG: list[tuple[Optimizers, str]] = [
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
def test_what_servers_cannot_do_is_refused(make: Optimizers, why: str) -> None:
    refused(re.escape(why), make=make)


def test_an_optimizer_named_twice_is_refused() -> None:
    refused(r"expected sgd:lr=0.1 as the script brings it.*got adam:lr=1", optimizer="adam:lr=1")


def test_models_that_differ_between_workers_are_named() -> None:
    def train(client: ps.Client) -> None:
        model = nn.Linear(8, 4 + client.rank)
        DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, client)

    with pytest.raises(Error, match=r"worker [01]: register: .*weight.*\(4, 8\)|\(5, 8\)"):
        run(train, workers=2)


def test_optimizers_that_differ_between_workers_are_named() -> None:
    def train(client: ps.Client) -> None:
        model = nn.Linear(8, 4)
        own = torch.optim.SGD(model.parameters(), 0.1 * (1 + client.rank))
        DistributedOptimizer(own, model, client)

    with pytest.raises(Error, match=r"register: optimizer: expected sgd:lr=0\.[12] as in the first batch, got sgd"):
        run(train, workers=2)


def test_other_ways_to_share_a_model_are_refused() -> None:
    class FullyShardedDataParallel(nn.Linear):
        pass

    refused("expected one that exchanges no gradients itself, got FullySharded", FullyShardedDataParallel(2, 2))


def test_parameters_stay_where_they_were_registered() -> None:
    def use(model: nn.Module, optimizer: DistributedOptimizer) -> None:
        with pytest.raises(
            ConfigError, match="add_param_group: expected all parameters when the optimizer was wrapped"
        ):
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
        MLP.loss(model, 0, 0).backward()
        first = next(model.parameters())
        first.data = first.data.clone()
        with pytest.raises(
            ConfigError, match=r"parameter '0\.weight': expected the tensor that the optimizer was made"
        ):
            optimizer.step()

    wrapped(use)


def test_a_gradient_of_nan_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    def use(model: nn.Module, optimizer: DistributedOptimizer) -> None:
        before = flat(model)
        (MLP.loss(model, 0, 0) * float("nan")).backward()
        optimizer.step()
        optimizer.synchronize()
        assert torch.equal(flat(model), before)

    wrapped(use)
    assert "push at clock 0 dropped: NaN or Inf in 0.weight" in caplog.text


def test_values_are_there_when_a_module_of_torch_reads_its_inner_parameters() -> None:
    """Attention never calls its output projection: it has to wait for it itself."""
    attention = nn.MultiheadAttention(512, 4, batch_first=True)
    x = np.random.default_rng(0).standard_normal((1, 4, 512)).astype(np.float32)

    def use(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(4):
            optimizer.zero_grad()
            given = torch.from_numpy(x)
            model(given, given, given)[0].square().mean().backward()
            optimizer.step()

    torch.testing.assert_close(wrapped(use, attention, servers=2), plain(use, attention))


def test_a_rate_is_scheduled_by_who_is_left() -> None:
    """Rank 0 returns after two clocks; the servers still hear of the others' rates."""

    def train(client: ps.Client) -> float:
        model = copy.deepcopy(MLP.model)
        optimizer = DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.5), model, client)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        for step in range(2 if client.rank == 0 else 8):
            optimizer.zero_grad()
            MLP.loss(model, step, client.rank).backward()
            optimizer.step()
            schedule.step()
        optimizer.synchronize()
        return client.lr

    _, rate = run(train, workers=2, consistency="async", seed=1)
    assert rate == pytest.approx(0.5 * 0.5**7)


def test_a_model_that_trains_without_its_forward_computes_on_the_newest_values() -> None:
    class Quiet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

    def use(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(5):
            optimizer.zero_grad()
            (model.get_parameter("w").square() / 2).backward()
            optimizer.step()

    state = wrapped(use, Quiet(), lambda model: torch.optim.SGD(model.parameters(), 0.5))
    assert state["w"].item() == 0.5**5


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda groups: groups[1].update(lr=0.05), "lr of group 1: expected 0.01"),
        (lambda groups: groups[0].update(momentum=0.5), "momentum of group 0: expected 0.9, as the servers were told"),
        (lambda groups: groups[1].update(weight_decay=1.0), "weight_decay of group 1: expected 0"),
    ],
    ids=["ratio", "momentum", "decay"],
)
def test_an_option_that_is_changed_later_is_refused_by_name(spoil: Any, text: str) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}]
        return torch.optim.SGD(groups, 0.1, momentum=0.9)

    def use(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        spoil(optimizer.param_groups)
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()

    with pytest.raises(ConfigError, match=text):
        wrapped(use, nn.Linear(3, 2), make)


def test_a_sparse_gradient_is_refused_by_name() -> None:
    def use(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.tensor([1, 2])).sum().backward()
        optimizer.step()

    with pytest.raises(ConfigError, match="sparse=False"):
        wrapped(use, nn.Embedding(10, 4, sparse=True))
