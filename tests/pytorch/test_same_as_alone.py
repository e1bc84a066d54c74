"""W workers under bsp against one process that steps a torch optimizer with the mean of the same gradients."""

from __future__ import annotations

import pytest
import torch

from tests.pytorch.models import Gradient, Optimizers, Problem, alone, distance, together

STEPS = 100
MAKE: dict[str, Optimizers] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.05),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda model: torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, nesterov=True),
    "adam": lambda model: torch.optim.Adam(model.parameters(), 2e-3, betas=(0.8, 0.99), eps=1e-6),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 2e-3, eps=1e-6, weight_decay=0.1),
    "adagrad": lambda model: torch.optim.Adagrad(model.parameters(), 0.02),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), 1e-3, alpha=0.95),
}


@pytest.mark.parametrize("name", sorted(MAKE))
@pytest.mark.parametrize("workers", [1, 3])
def test_in_double_precision(name: str, workers: int) -> None:
    problem = Problem("mlp", dtype=torch.float64)
    values = together(problem, MAKE[name], workers, STEPS)
    assert all(torch.equal(values[0], other) for other in values)
    assert distance(values[0], alone(problem, MAKE[name], workers, STEPS)) < 1e-12


@pytest.mark.parametrize("kind", ["cnn", "gpt", "mlp"])
@pytest.mark.parametrize("name", ["adam", "adamw", "momentum", "sgd"])
def test_in_single_precision(kind: str, name: str) -> None:
    """AdamW of torch multiplies by 1 - lr * weight_decay in float32, 3e-8 off in every step; ours does not. Training a
    GPT by Adam turns one rounding into 1e-5: so far apart are torch's own fused and its foreach implementation."""
    bound = {"adam": 1e-6, "adamw": 5e-6}.get(name, 1e-6) * (20 if kind == "gpt" and "adam" in name else 1)
    problem = Problem(kind)
    values = together(problem, MAKE[name], 2, STEPS)
    assert distance(values[0], alone(problem, MAKE[name], 2, STEPS)) < bound


@pytest.mark.parametrize("kind", ["cnn", "gpt"])
def test_other_models_in_double_precision(kind: str) -> None:
    problem = Problem(kind, dtype=torch.float64)
    values = together(problem, MAKE["adamw"], 2, STEPS)
    assert distance(values[0], alone(problem, MAKE["adamw"], 2, STEPS)) < 1e-11


def test_groups_keep_their_own_rate_and_decay() -> None:
    problem = Problem("mlp", dtype=torch.float64)

    def make(model: torch.nn.Module) -> torch.optim.Optimizer:
        assert isinstance(model, torch.nn.Sequential)
        groups = [
            {"params": model[0].parameters(), "lr": 0.01, "weight_decay": 0.1},
            {"params": [*model[2].parameters(), *model[4].parameters()], "lr": 0.05},
        ]
        return torch.optim.SGD(groups, 0.05, momentum=0.5)

    assert distance(together(problem, make, 2, STEPS)[0], alone(problem, make, 2, STEPS)) < 1e-12


def test_a_scheduler_of_torch_is_followed() -> None:
    problem, steps = Problem("mlp", dtype=torch.float64), 40

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    values = together(problem, MAKE["momentum"], 2, steps, schedule=schedule)
    assert distance(values[0], alone(problem, MAKE["momentum"], 2, steps, schedule=schedule)) < 1e-12


def test_examples_weigh() -> None:
    """A worker with 12 examples and one with 4: the step is that of all 16."""
    problem, batches = Problem("mlp", dtype=torch.float64), (12, 4)
    values = together(problem, MAKE["sgd"], 2, 10, batches=batches)
    assert distance(values[0], alone(problem, MAKE["sgd"], 2, 10, batches=batches)) < 1e-12


def test_clipping_by_norm_is_that_of_each_workers_whole_gradient() -> None:
    problem = Problem("mlp", dtype=torch.float64)

    def clipped(grads: Gradient) -> Gradient:
        norm = torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros((), dtype=torch.float64)))
        return [g * (0.05 / norm).clamp(max=1.0) for g in grads]

    values = together(problem, MAKE["sgd"], 2, 20, wrapper={"clip_norm": 0.05})
    expected = alone(problem, MAKE["sgd"], 2, 20, of_each=clipped)
    assert distance(values[0], expected) < 1e-6  # torch adds 1e-6 to the norm
