"""The order of the data: every example once per epoch over ranks and steps, whatever does not divide."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ps
from ps.data import indices, shard, steps_per_epoch


class Worker(SimpleNamespace):
    """What `shard` asks of a client: here nobody stops, and epochs end for all at once."""

    rank: int
    size: int
    seed: int
    clock: int
    should_stop = False

    def epoch_ended(self, epoch: int) -> bool:
        return epoch <= int(self.ended)

    def epoch_skipped(self, epoch: int, examples: int) -> None:
        self.skipped.append((epoch, examples))

    def epoch_done(self, epoch: int) -> None:
        self.done.append(epoch)


def worker(rank: int = 0, size: int = 1, *, seed: int = 0, clock: int = 0) -> Any:
    return Worker(rank=rank, size=size, seed=seed, clock=clock, ended=-1, skipped=[], done=[])


def epoch_of(examples: int, workers: int, batch: int, *, seed: int = 0, epoch: int = 0) -> list[list[Any]]:
    """Parts by rank and step."""
    return [indices(examples, seed, epoch, rank, workers, batch) for rank in range(workers)]


@given(examples=st.integers(1, 400), workers=st.integers(1, 9), batch=st.integers(1, 70), epoch=st.integers(0, 3))
def test_every_example_once_per_epoch(examples: int, workers: int, batch: int, epoch: int) -> None:
    workers = min(workers, examples)
    steps = steps_per_epoch(examples, workers, batch)
    parts = epoch_of(examples, workers, batch, epoch=epoch)
    assert {len(part) for part in parts} == {steps}, "all workers tick as often"
    sizes = [len(step) for part in parts for step in part]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1 and max(sizes) <= max(batch, 2)
    assert sorted(np.concatenate([step for part in parts for step in part]).tolist()) == list(range(examples))


@pytest.mark.parametrize(
    ("examples", "workers", "batch", "steps"),
    [(12, 3, 2, 2), (13, 3, 2, 3), (5, 5, 64, 1), (5, 4, 1, 1), (1, 1, 1, 1), (7, 2, 100, 1), (100, 7, 10, 2)],
)
def test_steps_per_epoch(examples: int, workers: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(examples, workers, batch) == steps


def test_order_is_fresh_each_epoch_and_follows_from_the_seed() -> None:
    def order(**given: int) -> list[int]:
        return [int(i) for part in epoch_of(50, 2, 4, **given) for step in part for i in step]

    orders = [order(epoch=0), order(epoch=1), order(epoch=2), order(seed=1)]
    assert len({tuple(one) for one in orders}) == 4
    assert order(epoch=1) == orders[1]


@given(clock=st.integers(0, 40), rank=st.integers(0, 2))
def test_a_restarted_worker_goes_on_at_its_clock(clock: int, rank: int) -> None:
    x, y = np.arange(50), -np.arange(50)
    whole = list(shard((x, y), worker(rank, 3), batch=4, epochs=4))
    rest = list(shard((x, y), worker(rank, 3, clock=clock), batch=4, epochs=4))
    assert len(whole) == 4 * steps_per_epoch(50, 3, 4) and len(rest) == max(0, len(whole) - clock)
    for (x_left, y_left), (x_right, y_right) in zip(rest, whole[clock:], strict=True):
        assert (x_left == x_right).all() and (y_left == -x_right).all() and (y_right == -x_right).all()


def test_rows_of_all_arrays_belong_together_and_nothing_is_written() -> None:
    images, labels = np.arange(60).reshape(20, 3), np.arange(20)
    images.flags.writeable = False
    for rows, label in shard([images, labels], worker(), batch=6, epochs=1):
        assert rows.shape == (len(label), 3) and (rows[:, 0] == 3 * label).all()


def test_an_epoch_that_has_ended_is_left_and_counted() -> None:
    client = worker(1, 2)
    batches = shard((np.arange(32),), client, batch=4, epochs=2)  # 4 steps of 4 examples
    next(batches), next(batches)
    client.ended = 0
    assert len(list(batches)) == 4
    assert client.skipped == [(0, 8)] and client.done == [1]


def test_a_stopped_job_ends_the_batches() -> None:
    client = worker()
    batches = shard((np.arange(32),), client, batch=4, epochs=2)
    next(batches)
    client.should_stop = True
    assert list(batches) == [] and client.done == []


def test_fewer_examples_than_workers_are_refused_at_once() -> None:
    with pytest.raises(ps.ConfigError, match="at least one example for each of 4 workers, got 3; run fewer workers"):
        shard((np.arange(3),), worker(0, 4), batch=1, epochs=1)
    assert [len(step) for step in indices(4, 0, 0, 3, 4, 9)] == [1]


def test_no_epochs_no_batches() -> None:
    assert list(shard((np.arange(3),), worker(), batch=1, epochs=0)) == []
