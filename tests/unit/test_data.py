"""The order of the data: every example once per epoch over ranks and steps, whatever does not divide."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ps
from ps.config import RunConfig
from ps.data import indices, leased, shard, steps_per_epoch
from ps.spans import Span


class Worker(SimpleNamespace):
    """What `shard` asks of a client: here nobody stops, and epochs end for all at once."""

    rank: int
    size: int
    seed: int
    clock: int
    should_stop = False
    busy_s = 0.0

    def epoch_ended(self, epoch: int) -> bool:
        return epoch <= int(self.ended)

    def epoch_skipped(self, epoch: int, examples: int) -> None:
        self.skipped.append((epoch, examples))

    def epoch_done(self, epoch: int) -> None:
        self.done.append(epoch)


class Lent:
    """What `leased` asks of its leases: here they are given out as they stand, with waits in between."""

    def __init__(self, spans: list[Span | None]) -> None:
        self.spans, self.computed_in, self.events = spans, list[tuple[Span, int]](), list[str]()
        self.pace, self.size, self.observed = 1.0, 0, list[tuple[int, float]]()

    @property
    def is_over(self) -> bool:
        return not self.spans

    def begin(self, timeout_s: float) -> None:
        self.events.append("begin")

    def ask(self) -> None:
        self.events.append("ask")

    def take(self, timeout_s: float) -> Span | None:
        return self.spans.pop(0) if self.spans else None

    def computed(self, span: Span, clock: int) -> None:
        self.computed_in.append((span, clock))
        self.events.append(f"computed {span[0]}")

    def observe(self, positions: int, seconds: float) -> None:
        self.observed.append((positions, seconds))

    def finish(self, timeout_s: float) -> None:
        self.events.append("finish")

    def wait(self, timeout_s: float) -> None:
        self.events.append("wait")


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


# ---- leased ---------------------------------------------------------------------------------------------------------


def lent(*spans: Span | None, **more: Any) -> Any:
    """A worker that is lent these positions; None: others hold what is left."""
    client = worker(**more)
    client.lent, client.config = Lent(list(spans)), RunConfig(timeout_s=1.0)
    client.leases = lambda name, examples, epochs, size: client.lent
    return client


def order(examples: int, epoch: int, seed: int = 0) -> list[int]:
    return [int(i) for part in indices(examples, seed, epoch, 0, 1, examples) for i in part]


def test_batches_are_the_leased_places_of_the_epochs_order() -> None:
    client = lent((0, 6), (6, 10), (13, 20), seed=3)
    batches = leased(10, client, batch=4, epochs=2)
    got = [(batches.epoch, batch.tolist()) for batch in batches]
    first, second = order(10, 0, 3), order(10, 1, 3)
    assert got == [(0, first[:4]), (0, first[4:6]), (0, first[6:10]), (1, second[3:7]), (1, second[7:])]
    assert client.done == [0, 1]


def test_the_next_lease_is_asked_for_with_the_last_batch_of_one() -> None:
    client = lent((0, 4), (4, 6))
    list(leased(6, client, batch=2, epochs=1))
    assert client.lent.events == ["begin", "computed 0", "ask", "computed 2", "ask", "computed 4", "finish"]


@pytest.mark.parametrize(("ticks", "clock"), [(0, 0), (1, 0), (3, 2)])
def test_a_batch_is_computed_when_the_loop_comes_back(ticks: int, clock: int) -> None:
    """Its pushes are in all clocks since it was given; it may be one of several in a clock, or take several."""
    client = lent((0, 4))
    batches = leased(4, client, batch=2, epochs=1)
    next(batches)
    assert client.lent.computed_in == []
    client.clock += ticks
    next(batches)
    assert client.lent.computed_in == [((0, 2), clock)]


@pytest.mark.parametrize(("balanced", "lengths", "size"), [(False, [4, 4, 4], 0), (True, [6, 6], 12)])
def test_balanced_batches_and_leases_follow_the_pace(balanced: bool, lengths: list[int], size: int) -> None:
    """0: nothing was said. And each batch is told with the seconds that the loop has computed: pace is made of them."""
    client = lent((0, 12))
    client.lent.pace = 1.5
    batches = leased(12, client, batch=4, epochs=1, lease=8, balanced=balanced)
    got = []
    for batch in batches:
        got.append(len(batch))
        client.busy_s += 0.5 * len(batch)
    assert (got, client.lent.size) == (lengths, size)
    assert client.lent.observed == [(length, 0.5 * length) for length in lengths]


def test_rows_of_all_arrays_belong_together_in_leases_too() -> None:
    client = lent((0, 5), None, (5, 7))
    x = np.arange(14).reshape(7, 2)
    rows = list(leased((x, x[:, 0]), client, batch=3, epochs=1))
    assert [len(y) for _, y in rows] == [3, 2, 2] and all((a[:, 0] == b).all() for a, b in rows)
    assert client.lent.events.count("wait") == 1


def test_what_was_left_of_an_earlier_epoch_comes_in_its_own_order() -> None:
    client = lent((4, 8), (1, 3), (8, 12))
    batches = leased(4, client, batch=4, epochs=3)
    got = [batch.tolist() for batch in batches]
    assert got == [order(4, 1), order(4, 0)[1:3], order(4, 2)]


def test_a_stopped_job_ends_leased_batches() -> None:
    client = lent((0, 8), None)
    batches = leased(8, client, batch=2, epochs=1)
    next(batches)
    client.should_stop = True
    assert list(batches) == [] and client.done == []


def test_a_loader_may_be_ahead_of_the_loop() -> None:
    """It has made all batches before the first is computed; the wait comes when the loop has been through them."""
    client = lent((0, 4), None, (4, 6))

    def eager(batches: Iterator[list[int]]) -> list[list[int]]:
        made = list(batches)
        client.lent.events.append(f"made {len(made)}")
        return made

    got = list(leased(6, client, batch=2, epochs=1, loader=eager))
    assert got == [order(6, 0)[:2], order(6, 0)[2:4], order(6, 0)[4:]]
    events = [event for event in client.lent.events if event != "ask"]
    assert events == ["begin", "made 2", "computed 0", "computed 2", "wait", "made 1", "computed 4", "finish"]


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda batches: [1, *batches], "a batch for each list of indices, got one more"),
        (lambda batches: list(batches)[1:], "a batch for each list of indices, 1 are missing"),
    ],
)
def test_a_loader_makes_one_batch_of_each_list(loader: Any, words: str) -> None:
    with pytest.raises(ps.ConfigError, match=words):
        list(leased(4, lent((0, 4)), batch=2, epochs=1, loader=loader))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(data=0), "data.leased: data: expected at least one example, got 0"),
        (dict(data=np.arange(3)), "data.leased: arrays: expected a tuple of arrays, got one array"),
        (dict(batch=0), "data.leased: batch: expected >= 1"),
        (dict(epochs=-1), "data.leased: epochs: expected >= 0, got -1"),
        (dict(epochs=2**60), r"epochs: expected at most 2\^62 examples over all of them, got 1152921504606846976"),
        (dict(name=""), "data.leased: name: expected 1 to 512 bytes, got ''"),
        (dict(lease=3), "data.leased: lease: expected at least one batch of 4 examples, got 3"),
        (dict(data=(np.arange(3),), loader=list), "loader: expected a number of examples as data beside it, got array"),
        (dict(client=SimpleNamespace(sync=None)), "data.leased: client: expected a ps.Client, got SimpleNamespace"),
    ],
)
def test_arguments_of_leased_are_checked_at_once(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ps.ConfigError, match=words):
        leased(**{"data": 8, "client": lent(), "batch": 4, "epochs": 1, **given})


def test_no_epochs_no_leased_batches() -> None:
    assert list(leased(3, lent(), batch=1, epochs=0)) == []
