"""Small models with their data, and two ways to train them: by workers together, by one process alone.

Models are made in one thread: torch's random state is one per process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import ps
import ps.torch

BATCH = 8  # rows of a worker's batch
Optimizers = Callable[[nn.Module], torch.optim.Optimizer]
Schedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
Gradient = Sequence[torch.Tensor]  # of one worker: one tensor per parameter


class TinyGpt(nn.Module):
    """Characters in, the next character out: one block, tied embeddings."""

    def __init__(self, letters: int = 16, width: int = 16, length: int = 8) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, letters, bias=False)
        self.head.weight = self.letters.weight
        self.register_buffer("mask", torch.triu(torch.ones(length, length, dtype=torch.bool), 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.letters(x) + self.places(torch.arange(x.shape[1]))
        n = self.norm1(h)
        h = h + self.attention(n, n, n, attn_mask=self.mask, need_weights=False)[0]
        logits: torch.Tensor = self.head(h + self.mlp(self.norm2(h)))
        return logits.flatten(0, 1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 48), nn.Tanh(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4))


def cnn() -> nn.Module:
    convolutions = (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU())
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *convolutions, nn.Flatten(), nn.Linear(32, 4))


class Problem:
    """A model, and batches by (step, worker)."""

    def __init__(self, kind: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = {"mlp": mlp, "cnn": cnn, "gpt": TinyGpt}[kind]().to(dtype)
            shape = {"mlp": (64, 12), "cnn": (64, 64), "gpt": (64, 8)}[kind]
            if kind == "gpt":
                x = torch.randint(0, 16, shape)
                self.x, self.y = x, x.roll(-1, 1)  # to be learnt: the next letter of a ring
            else:
                self.x = torch.randn(shape, dtype=dtype)
                self.y = self.x[:, :4].argmax(1)

    def copy(self) -> nn.Module:
        return copy.deepcopy(self.model)

    def loss(self, model: nn.Module, step: int, worker: int, batch: int = BATCH) -> torch.Tensor:
        """Of a worker's batch of this step."""
        rows = (torch.arange(batch) + batch * (3 * step + worker)) % len(self.x)
        return nn.functional.cross_entropy(model(self.x[rows]), self.y[rows].flatten())

    def whole_loss(self, values: torch.Tensor) -> float:
        """Of all data, with these parameters."""
        model = self.copy()
        nn.utils.vector_to_parameters(values, model.parameters())
        with torch.no_grad():
            loss: torch.Tensor = nn.functional.cross_entropy(model(self.x), self.y.flatten())
        return loss.item()


def run(train: Callable[[ps.Client], Any], workers: int = 1, **options: Any) -> list[Any]:
    """What `train` gives in each worker of a cluster of this process."""
    with ps.LocalCluster(workers=workers, **options) as cluster:
        return cluster.run(train)


def together(
    problem: Problem,
    make: Optimizers,
    workers: int,
    steps: int,
    *,
    schedule: Schedule | None = None,
    batches: Sequence[int] = (),
    wrapper: Mapping[str, Any] | None = None,
    servers: int = 2,
    **options: Any,
) -> list[torch.Tensor]:
    """All parameters as each worker has them at the end, flat.

    The loop knows nothing of consistency or compression. batches: rows of each worker's; the wrapper is told when they
    are given. wrapper: keywords of ps.torch.DistributedOptimizer. options: of the cluster.
    """

    def train(client: ps.Client) -> torch.Tensor:
        model = problem.copy()
        if client.rank:  # the values of rank 0 hold
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1.0)
        optimizer = ps.torch.DistributedOptimizer(make(model), model, client, **(wrapper or {}))
        scheduler = schedule(optimizer) if schedule else None
        batch = batches[client.rank] if batches else BATCH
        if batches:
            optimizer.examples = batch
        for step in range(steps):
            optimizer.zero_grad()
            problem.loss(model, step, client.rank, batch).backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
        client.barrier()  # with a pull under way
        optimizer.synchronize()
        return flat(model)

    return run(train, workers, servers=servers, **options)


def alone(
    problem: Problem,
    make: Optimizers,
    workers: int,
    steps: int,
    *,
    schedule: Schedule | None = None,
    batches: Sequence[int] = (),
    of_each: Callable[[Gradient], Gradient] = lambda grads: grads,
) -> torch.Tensor:
    """One process that computes every worker's gradient and steps with the mean over all rows: all parameters, flat.

    of_each: what a worker does to its gradient.
    """
    model, batches = problem.copy(), batches or [BATCH] * workers
    optimizer, parameters = make(model), list(model.parameters())
    scheduler = schedule(optimizer) if schedule else None
    for step in range(steps):
        losses = [problem.loss(model, step, worker, batch) for worker, batch in enumerate(batches)]
        grads = [of_each(torch.autograd.grad(loss, parameters)) for loss in losses]
        for parameter, *parts in zip(parameters, *grads, strict=True):
            weighted = (batch * part for batch, part in zip(batches, parts, strict=True))
            parameter.grad = sum(weighted, torch.zeros_like(parameter)) / sum(batches)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return flat(model)


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """In the 2-norm over all parameters, relative."""
    return float((one - other).norm() / other.norm())
