"""This worker's part of the data: a fresh order each epoch, the same for everybody who knows (seed, clock, rank)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ps.errors import ConfigError
from ps.types import Array
from ps.worker.client import Client


def steps_per_epoch(examples: int, workers: int, batch: int) -> int:
    """Clocks of one epoch: every worker has as many, each with at least one example and at most `batch` (or 2)."""
    return min(-(-examples // (batch * workers)), examples // workers)


def indices(examples: int, seed: int, epoch: int, rank: int, workers: int, batch: int) -> list[Array]:
    """The examples of one worker in each clock of an epoch: of the epoch's permutation, cut into steps * workers
    near-equal parts, part (step * workers + rank).

    Over the steps and ranks of an epoch every example comes exactly once; part sizes differ by one at most.
    """
    steps = steps_per_epoch(examples, workers, batch)
    order = np.random.default_rng([seed, epoch]).permutation(examples)
    return np.array_split(order, steps * workers)[rank::workers]


def shard(arrays: Sequence[Array], client: Client, *, batch: int, epochs: int) -> Iterator[tuple[Any, ...]]:
    """Batches of this worker: tuples with the same rows of every array.

    arrays: equal first dimension n >= workers. batch: examples per worker and clock. epochs count from clock 0; call
    client.tick() once per batch: a restarted worker goes on at client.clock. Ends early when the job is stopped; with
    the run option epoch_share an epoch ends when that share of the workers is through it, and what is left out is
    counted. Raises: ConfigError naming the argument.
    """
    if hasattr(arrays, "shape"):
        raise ConfigError("data.shard: arrays: expected a tuple of arrays, got one array; write (array,)")
    arrays = tuple(arrays)
    for array in arrays:
        if not getattr(array, "shape", ()):
            raise ConfigError(f"data.shard: arrays: expected arrays with examples as rows, got {type(array).__name__}")
    if hasattr(client, "sync"):
        raise ConfigError(f"data.shard: client: expected a ps.Client, got {type(client).__name__}; write client.sync")
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) != 1:
        raise ConfigError(f"data.shard: arrays: expected one or more, equally long, got lengths {lengths}")
    if batch < 1:
        raise ConfigError(f"data.shard: batch: expected >= 1 examples per worker and clock, got {batch}")
    if epochs < 0:
        raise ConfigError(f"data.shard: epochs: expected >= 0, got {epochs}")
    if lengths[0] < client.size:
        raise ConfigError(
            f"data.shard: arrays: expected at least one example for each of {client.size} workers, got {lengths[0]}; "
            f"run fewer workers"
        )
    return _batches(arrays, lengths[0], client, batch, epochs)


def _batches(
    arrays: tuple[Array, ...], examples: int, client: Client, batch: int, epochs: int
) -> Iterator[tuple[Any, ...]]:
    steps = steps_per_epoch(examples, client.size, batch)
    start = client.clock
    for epoch in range(start // steps, epochs):
        parts = indices(examples, client.seed, epoch, client.rank, client.size, batch)
        for step in range(start % steps if epoch == start // steps else 0, steps):
            if client.should_stop:
                return
            if client.epoch_ended(epoch):
                client.epoch_skipped(epoch, sum(len(part) for part in parts[step:]))
                break
            yield tuple(array[parts[step]] for array in arrays)
        else:
            client.epoch_done(epoch)
