"""Workers that are groups of processes: two groups of two ranks, and one process that combines in the same grouping."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from ps.errors import ConfigError, StoppedError
from ps.torch import DistributedOptimizer
from tests.pytorch.groups import RANKS, Place, Raised, World, good
from tests.pytorch.models import Optimizers, Problem, distance, flat
from tests.pytorch.test_wrapper import Uneven

MAKE: dict[str, Optimizers] = {
    "sgd": lambda model: torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), 0.05, momentum=0.9),
    "adam": lambda model: torch.optim.Adam(model.parameters(), 2e-3, betas=(0.8, 0.99), eps=1e-6),
}


@dataclass(frozen=True)
class Case:
    """What is trained, for so many steps. batches: rows of each rank's; backwards: per step."""

    make: str = "sgd"
    steps: int = 20
    batches: tuple[int, ...] = (8, 8, 8, 8)
    backwards: int = 1
    decays: bool = False
    wrapper: Mapping[str, Any] = field(default_factory=dict)
    problem: Problem = field(default_factory=lambda: Problem("mlp", dtype=torch.float64))

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5 if self.decays else 1.0)

    def gradients(self, model: nn.Module, step: int, rank: int) -> None:
        """Added to those of the model."""
        for turn in range(self.backwards):
            self.problem.loss(model, step + 100 * turn, rank, self.batches[rank]).backward()


PLAIN = Case()  # made here, not in threads: torch's random state is one per process


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.close()


# ---- what ranks do ---------------------------------------------------------------------------------------------------


def wrapped(place: Place, case: Case = PLAIN, **more: Any) -> tuple[nn.Module, DistributedOptimizer]:
    """The model of a rank, and its optimizer; those of rank 0 of worker 0 have the right values."""
    model = case.problem.copy()
    if place.index:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
    wrapper = {**case.wrapper, **more}
    return model, DistributedOptimizer(
        MAKE[case.make](model), model, place.client, process_group=place.group, **wrapper
    )


def train(place: Place, case: Case) -> torch.Tensor:
    model, optimizer = wrapped(place, case)
    assert optimizer.worker == (place.index // 2, 2, 0, False)
    scheduler = case.schedule(optimizer)
    optimizer.examples = case.batches[place.index]
    for step in range(case.steps):
        optimizer.zero_grad()
        case.gradients(model, step, place.index)
        optimizer.step()
        scheduler.step()
    assert optimizer.worker.clock == case.steps
    return flat(model)


def group_gradient(case: Case, model: nn.Module, step: int, group: int) -> list[torch.Tensor]:
    """The mean of two ranks, clipped as the case says."""
    ranks = [2 * group, 2 * group + 1]
    parts = []
    for rank in ranks:
        model.zero_grad()
        case.gradients(model, step, rank)
        parts.append([p.grad * case.batches[rank] for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    rows = sum(case.batches[rank] for rank in ranks)
    for parameter, one, other in zip(model.parameters(), *parts, strict=True):
        parameter.grad = (one + other) / rows
    if "clip_norm" in case.wrapper:
        nn.utils.clip_grad_norm_(model.parameters(), case.wrapper["clip_norm"])
    return [p.grad for p in model.parameters() if p.grad is not None]


def reference(case: Case) -> torch.Tensor:
    """One process: the mean of each group, then that of the groups, weighted by their rows."""
    model = case.problem.copy()
    optimizer = MAKE[case.make](model)
    scheduler = case.schedule(optimizer)
    rows = [sum(case.batches[:2]), sum(case.batches[2:])]
    for step in range(case.steps):
        parts = [group_gradient(case, model, step, group) for group in range(2)]
        for parameter, one, other in zip(model.parameters(), *parts, strict=True):
            parameter.grad = (rows[0] * one + rows[1] * other) / sum(rows)
        optimizer.step()
        scheduler.step()
    return flat(model)


# ---- the same values -------------------------------------------------------------------------------------------------

CASES = {
    "sgd": Case(),
    "adam": Case("adam"),
    "unequal examples": Case("adam", batches=(12, 4, 6, 2)),
    "a scheduler": Case("momentum", decays=True),
    "clipped": Case(batches=(12, 4, 6, 2), wrapper={"clip_norm": 0.05}),
    "accumulated": Case(backwards=2, wrapper={"accumulate": 2}),
}


TORCHRUN = Case("adam", batches=(12, 4, 6, 2))  # of group_script.py


@pytest.mark.parametrize("name", CASES)
def test_two_groups_of_two_equal_the_flat_reference(world: World, name: str) -> None:
    values = good(world.run(train, CASES[name], servers=2))
    assert all(torch.equal(values[0], other) for other in values)
    assert distance(values[0], reference(CASES[name])) < 1e-12


def test_groups_do_diloco(world: World) -> None:
    """Each group's ranks step with one gradient; the outer step is Nesterov's with what the groups have moved."""
    every, case = 5, Case("adam")
    values = good(
        world.run(train, case, consistency=f"local:every={every}", optimizer="nesterov:lr=0.7,decay=0.5", servers=2)
    )
    whole = case.problem.copy()
    outer = torch.optim.SGD(whole.parameters(), 0.7, momentum=0.5, nesterov=True)
    models = [case.problem.copy() for _ in range(2)]
    inner = [MAKE["adam"](model) for model in models]
    for step in range(case.steps):
        for group, model in enumerate(models):
            group_gradient(case, model, step, group)
            inner[group].step()
        if (step + 1) % every == 0:
            for parameter, one, other in zip(whole.parameters(), *(m.parameters() for m in models), strict=True):
                parameter.grad = parameter.detach() - (one.detach() + other.detach()) / 2
            outer.step()
            for model in models:
                model.load_state_dict(whole.state_dict())
    assert all(torch.equal(values[0], other) for other in values)
    assert distance(values[0], flat(whole)) < 1e-12


def train_uneven(place: Place, model: nn.Module) -> dict[str, torch.Tensor]:
    """Rank 1 of each group alone uses a layer, and nobody in odd steps."""
    mine = Uneven().double()
    mine.load_state_dict(model.state_dict())
    optimizer = DistributedOptimizer(MAKE["sgd"](mine), mine, place.client, process_group=place.group)
    for step in range(6):
        optimizer.zero_grad()
        x = torch.arange(8).roll(step)
        nn.functional.cross_entropy(mine(x, step % 2 == 0 and place.index % 2 == 1), x).backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in mine.named_parameters()}


def test_tied_frozen_and_unused_parameters(world: World) -> None:
    """All ranks have the same rows, so that running means of batch norm agree."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, alone = Uneven().double(), Uneven().double()
    alone.load_state_dict(model.state_dict())
    optimizer = MAKE["sgd"](alone)
    for step in range(6):
        optimizer.zero_grad()
        x = torch.arange(8).roll(step)
        for used in (False, step % 2 == 0):
            (nn.functional.cross_entropy(alone(x, used), x) / 2).backward()
        optimizer.step()
    expected = {name: parameter.detach() for name, parameter in alone.named_parameters()}
    for values in good(world.run(train_uneven, model, servers=2)):
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)


def overflow(place: Place) -> tuple[torch.Tensor, float]:
    """In rank 1 of worker 0 only."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model, optimizer = wrapped(place, scaler=scaler)
    for factor in (float("inf") if place.index == 1 else 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale(PLAIN.problem.loss(model, 0, place.index) * factor).backward()
        optimizer.step()
        scaler.update()
    return flat(model), scaler.get_scale()


def test_an_overflow_is_that_of_the_whole_group(world: World) -> None:
    """The other group's step counts; in the second step both do."""
    outcomes = good(world.run(overflow))
    assert [scale for _, scale in outcomes] == [2.0, 2.0, 4.0, 4.0]
    model = PLAIN.problem.copy()
    for groups in ([1], [0, 1]):
        parts = [group_gradient(PLAIN, model, 0, group) for group in groups]
        with torch.no_grad():
            for parameter, *grads in zip(model.parameters(), *parts, strict=True):
                parameter -= 0.05 * torch.stack(grads).mean(0)
    assert all(distance(values, flat(model)) < 1e-12 for values, _ in outcomes)


def state_names(place: Place) -> list[str]:
    _, optimizer = wrapped(place, scaler=torch.amp.GradScaler("cpu"))
    optimizer.register_state(schedule=torch.optim.lr_scheduler.StepLR(optimizer, 5))
    return [] if place.client is None else sorted(place.client.state())


def test_the_state_of_a_worker_is_that_of_its_rank_0(world: World) -> None:
    names = ["ps.compression", "ps.torch.optimizer", "ps.torch.random", "ps.torch.scaler", "schedule"]
    assert good(world.run(state_names)) == [names, [], names, []]


# ---- ends and mistakes -----------------------------------------------------------------------------------------------


def step_once(model: nn.Module, optimizer: DistributedOptimizer, index: int) -> None:
    optimizer.zero_grad()
    PLAIN.problem.loss(model, 0, index).backward()
    optimizer.step()


def until_stopped(place: Place) -> tuple[int, bool]:
    """Steps, and whether a step has told."""
    model, optimizer = wrapped(place)
    steps = 0
    try:
        while not optimizer.worker.should_stop:
            step_once(model, optimizer, place.index)
            steps += 1
            if steps == 3 and place.index == 0:
                assert place.client is not None
                place.client.stop("enough")
    except StoppedError:
        return steps, True
    return steps, False


def test_a_stop_reaches_all_ranks_in_the_same_step(world: World) -> None:
    outcomes = good(world.run(until_stopped))
    assert outcomes[0] == outcomes[1] and outcomes[2] == outcomes[3] and min(outcomes)[0] >= 3


GO = threading.Event()  # in the process of both rank 0


def one_group_waits(place: Place) -> None:
    model, optimizer = wrapped(place)
    if place.index == 2:
        assert GO.wait(60)
    if place.index < 2:
        try:
            step_once(model, optimizer, place.index)
        finally:
            GO.set()


def test_a_deadline_of_rank_0_is_that_of_its_group(world: World) -> None:
    GO.clear()
    outcomes = world.run(one_group_waits, timeout_s=1.0)
    assert outcomes[2:] == [None, None]
    assert [one.kind for one in outcomes[:2]] == ["DeadlineError"] * 2
    assert outcomes[1].text == f"rank 0 of process_group: {outcomes[0].text}"


def closed(place: Place) -> None:
    model, optimizer = wrapped(place)
    if place.client is not None:
        place.client.close()
    step_once(model, optimizer, place.index)


def test_a_mistake_of_rank_0_is_that_of_its_group(world: World) -> None:
    for outcome in world.run(closed):
        assert outcome.kind == "ConfigError" and "this client is closed" in outcome.text


def broken(place: Place, text: str) -> None:
    model, optimizer = wrapped(place)
    client: Any = place.client
    if client is not None:

        def breaks(*_: Any, **__: Any) -> None:
            raise RuntimeError(text)

        client.push_pull_later = breaks
    step_once(model, optimizer, place.index)


@pytest.mark.parametrize("text", ["of no kind of ours", "with umlauts äöü " * 1000])
def test_any_error_of_rank_0_is_told(world: World, text: str) -> None:
    outcomes = world.run(broken, text)
    assert outcomes[::2] == [Raised("RuntimeError", text)] * 2
    assert outcomes[1::2] == [Raised("PeerError", f"rank 0 of process_group: RuntimeError: {text}")] * 2


def wrong(place: Place, way: str) -> None:
    client: Any = place.client
    if way == "everywhere":
        client = client or object()
    elif way == "nowhere":
        client = None
    model = nn.Linear(4, 3 if way == "model" and place.index % 2 else 2)
    own = torch.optim.SGD(model.parameters(), 0.1)
    DistributedOptimizer(own, model, client, process_group=place.group)


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("everywhere", "client: expected that of ps.connect() on rank 0 of process_group and None on its other ranks, "
         "got one on ranks 0, 1; say: "),
        ("nowhere", "client: expected that of ps.connect() on rank 0 of process_group and None on its other ranks, "
         "got one on no rank; say: "),
        ("model", "model: expected the same parameters (names, shapes, dtypes) on all ranks of process_group, got "
         "others than rank 0 on rank 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_on_all_ranks(world: World, way: str, why: str) -> None:
    outcomes: Sequence[Raised] = world.run(wrong, way)
    assert len(outcomes) == RANKS
    assert all(one.kind == "ConfigError" and one.text.startswith(why) for one in outcomes), outcomes


def test_a_client_is_needed_without_a_group() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"client: expected that of ps.connect\(\), got None, which is for ranks abo"):
        DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, None)


def test_wrappers_of_torch_are_refused_inside_a_model_too() -> None:
    class DistributedDataParallel(nn.Linear):
        pass

    class FSDPLinear(nn.Linear):
        def unshard(self) -> None: ...

    for inner, why in (
        (DistributedDataParallel(2, 2), "got DistributedDataParallel; pass the module inside, and the ranks that it"),
        (FSDPLinear(2, 2), "got FSDPLinear with parameters that are sharded, while servers hold whole ones; pass the"),
    ):
        model = nn.Sequential(inner)
        with pytest.raises(ConfigError, match=why):
            DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, None)
