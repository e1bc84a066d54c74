"""This worker's part of the data, in a fresh order each epoch: fixed by (seed, clock, rank), or leased as it goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ps.errors import ConfigError
from ps.keyspace import NAME_BYTES_MAX
from ps.spans import Span
from ps.types import Array
from ps.wire import COUNT_MAX
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
    arrays = _checked("shard", arrays)
    examples = len(arrays[0])
    _check_loop("shard", client, batch, epochs)
    if examples < client.size:
        raise ConfigError(
            f"data.shard: arrays: expected at least one example for each of {client.size} workers, got {examples}; "
            f"run fewer workers"
        )
    return _batches(arrays, examples, client, batch, epochs)


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


def leased(
    data: int | Sequence[Array],
    client: Client,
    *,
    batch: int,
    epochs: int,
    lease: int | None = None,
    balanced: bool = False,
    name: str = "data",
    loader: Callable[[Iterator[list[int]]], Iterable[Any]] | None = None,
    timeout: float | None = None,
) -> LeasedBatches:
    """Batches that workers share out as they go: who is faster takes more, and what a lost worker left others compute.

    data: arrays of equal first dimension, for tuples with the same rows of every array; or a number of examples, for
    arrays of indices. batch: examples at most; the last of a lease may have fewer, so push with weight=len(...).
    lease: examples that a worker holds at a time, default 8 batches. balanced: both are of a worker of mean speed, the
    others' in proportion to their speeds, as measured, so that a clock takes all equally long; under `local` batches
    are alike and workers take fewer steps per round as they are slower. name: of the data set,
    one for each. loader: makes batches of index lists, one of each, in order:
    `lambda batches: DataLoader(dataset, batch_sampler=batches)`; `data` is a number then. Call client.tick() once per
    batch. Each example comes once per epoch; batches end when all are done by somebody, or the job is stopped. Until
    then a worker that has none left waits, and where others wait for its clock, it closes clocks without a push.
    `timeout` is the deadline of each such wait. Raises: ConfigError naming the argument; DeadlineError.
    """
    arrays = () if isinstance(data, int) else _checked("leased", data)
    _check_loop("leased", client, batch, epochs)
    examples = data if isinstance(data, int) else len(arrays[0])
    size = 8 * batch if lease is None else lease
    if examples < 1:
        raise ConfigError(f"data.leased: data: expected at least one example, got {examples}")
    if examples * epochs > COUNT_MAX:
        raise ConfigError(f"data.leased: epochs: expected at most 2^62 examples over all of them, got {epochs}")
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
        raise ConfigError(f"data.leased: name: expected 1 to {NAME_BYTES_MAX} bytes, got {name[:40]!r}")
    if size < batch:
        raise ConfigError(f"data.leased: lease: expected at least one batch of {batch} examples, got {size}")
    if loader is not None and arrays:
        raise ConfigError("data.leased: loader: expected a number of examples as data beside it, got arrays")
    make = partial(_rows, arrays) if loader is None else partial(_loaded, loader)
    return LeasedBatches(client, name, (examples, epochs, batch, size), balanced, make, timeout)


def _rows(arrays: tuple[Array, ...], indices: Iterator[Array]) -> Iterable[Any]:
    return (tuple(array[i] for array in arrays) if arrays else i for i in indices)


def _loaded(loader: Callable[[Iterator[list[int]]], Iterable[Any]], indices: Iterator[Array]) -> Iterable[Any]:
    return loader(i.tolist() for i in indices)


class LeasedBatches(Iterator[Any]):
    """What `leased` gives. epoch: that of the last batch."""

    def __init__(
        self,
        client: Client,
        name: str,
        numbers: tuple[int, int, int, int],
        balanced: bool,
        make: Callable[[Iterator[Array]], Iterable[Any]],
        timeout: float | None,
    ) -> None:
        self.examples, self.epochs, self.batch, self._size = numbers
        self._balanced = balanced
        self.epoch = 0
        self._client, self._make = client, make
        self._timeout_s = client.config.timeout_s if timeout is None else timeout
        self._leases = client.leases(name, self.examples, self.epochs, self._size)
        self._handed: deque[Span] = deque()  # made into batches, and not computed yet
        self._orders: dict[int, Array] = {}  # epoch -> its permutation
        self._batches = self._all()

    def __next__(self) -> Any:
        return next(self._batches)

    def _all(self) -> Iterator[Any]:
        client, leases = self._client, self._leases
        leases.begin(self._timeout_s)
        since = client.busy_s
        while self.epochs:
            for made in self._make(self._indices()):
                span, clock = self._oldest(), client.clock
                self._begin(span[0] // self.examples)
                yield made
                leases.computed(span, max(clock, client.clock - 1))  # the last, where a batch takes several clocks
                leases.observe(span[1] - span[0], client.busy_s - since)
                since = client.busy_s
                if client.should_stop:
                    return
            if left := len(self._handed):
                raise ConfigError(f"data.leased: loader: expected a batch for each list of indices, {left} are missing")
            if leases.is_over:
                leases.finish(self._timeout_s)
                client.epoch_done(self.epochs - 1)
                return
            if client.should_stop:
                return
            leases.wait(self._timeout_s)

    def _oldest(self) -> Span:
        if not self._handed:
            raise ConfigError("data.leased: loader: expected a batch for each list of indices, got one more")
        return self._handed.popleft()

    def _begin(self, epoch: int) -> None:
        if epoch > self.epoch:  # it takes what others have left of earlier ones later, too
            self._client.epoch_done(epoch - 1)
        self.epoch = epoch

    def _indices(self) -> Iterator[Array]:
        """The indices of batch after batch, until others hold what is left. A loader may be ahead of the loop."""
        while (span := self._leases.take(self._timeout_s)) is not None:
            batch = self._balance() if self._balanced else self.batch
            for start in range(*span, batch):
                stop = min(start + batch, span[1])
                if stop == span[1]:
                    self._leases.ask()  # the answer comes while this batch is computed
                self._handed.append((start, stop))
                epoch = start // self.examples
                yield self._order(epoch)[start - epoch * self.examples : stop - epoch * self.examples]

    def _balance(self) -> int:
        """This worker's batch, so that a clock takes all equally long; or its steps, so that a round does."""
        client, pace = self._client, self._leases.pace
        batch = self.batch
        if client.config.model().cadence.carries == "delta":
            client.take_steps(self._leases.share)
        else:
            batch = max(round(self.batch * pace), 1)
        self._leases.size = max(round(self._size * pace), batch)
        return batch

    def _order(self, epoch: int) -> Array:
        if epoch not in self._orders:
            kept = dict(list(self._orders.items())[-1:])  # what was left of an earlier epoch comes in between
            order = np.random.default_rng([self._client.seed, epoch]).permutation(self.examples)
            self._orders = {**kept, epoch: order}
        return self._orders[epoch]


def _checked(call: str, arrays: Sequence[Array]) -> tuple[Array, ...]:
    if hasattr(arrays, "shape"):
        raise ConfigError(f"data.{call}: arrays: expected a tuple of arrays, got one array; write (array,)")
    arrays = tuple(arrays)
    for array in arrays:
        if not getattr(array, "shape", ()):
            raise ConfigError(f"data.{call}: arrays: expected arrays with examples as rows, got {type(array).__name__}")
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) != 1:
        raise ConfigError(f"data.{call}: arrays: expected one or more, equally long, got lengths {lengths}")
    return arrays


def _check_loop(call: str, client: Client, batch: int, epochs: int) -> None:
    if hasattr(client, "sync"):
        raise ConfigError(f"data.{call}: client: expected a ps.Client, got {type(client).__name__}; write client.sync")
    if batch < 1:
        raise ConfigError(f"data.{call}: batch: expected >= 1 examples per worker and clock, got {batch}")
    if epochs < 0:
        raise ConfigError(f"data.{call}: epochs: expected >= 0, got {epochs}")
