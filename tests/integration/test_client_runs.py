"""What a training loop may rely on beside values: barriers, stops, learning rates, state, data."""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np
import pytest

import ps
from tests.integration.helpers import DEADLINE_S, cluster, run, vector

BSP, ASYNC = "bsp", "async"


# ---- clocks, barriers, ends -----------------------------------------------------------------------------------------


def test_push_pull_is_a_whole_clock(seed: int | None) -> None:
    def train(client: ps.Client) -> list[float]:
        client.register(vector())
        return [float(client.push_pull(vector(1.0))["w"][0]) for _ in range(3)] + [client.clock]

    assert run(seed, train, optimizer="sgd:lr=1") == [[-1, -2, -3, 3]] * 2


def test_barrier_waits_for_all(seed: int | None) -> None:
    arrived: list[int] = []

    def train(client: ps.Client) -> list[int]:
        seen = []
        for number in range(3):
            client.spend(0.01 * client.rank)
            arrived.append(client.rank)
            client.barrier()
            seen.append(len(arrived) - client.size * number)
            client.barrier()
        return seen

    assert run(seed, train, workers=3) == [[3, 3, 3]] * 3


def test_barrier_opens_when_a_worker_leaves_early(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        if client.rank == 2:
            return 0
        client.register(vector())
        client.push(vector(1.0))
        client.tick()
        client.barrier()
        return int(client.pull()["w"][0])

    assert run(seed, train, workers=3, optimizer="sgd:lr=2") == [-2, -2, 0]


def test_barrier_that_nobody_joins_ends_with_its_deadline(seed: int | None) -> None:
    free = threading.Event()
    passed: list[int] = []

    def train(client: ps.Client) -> str:
        if client.rank == 1:
            if seed is None:
                assert free.wait(DEADLINE_S)
            else:
                client.spend(10.0)
            client.barrier()
            passed.append(1)
            client.barrier()
            return ""
        with pytest.raises(ps.DeadlineError) as raised:
            client.barrier(timeout=1.0)
        free.set()
        client.barrier()  # caught: still the same barrier
        client.barrier()
        assert passed == [1]
        return str(raised.value)

    text, _ = run(seed, train, resend_s=0.1)
    assert re.fullmatch(r"after 1 s: barrier 1: waits for worker 1, at clock 0, last heard \d\.\d s ago", text), text


def test_stop_by_a_worker_reaches_all(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        client.register(vector())
        while not client.should_stop:
            client.push_pull(vector(1.0))
            if client.rank == 1 and client.clock == 3:
                client.stop("loss < 0.1")
        return client.clock

    with cluster(seed, workers=3) as one:
        clocks = one.run(train, timeout=DEADLINE_S)
        assert min(clocks) >= 3
        assert one.status()["stopped"] == "worker 1: loss < 0.1"


def test_leaving_after_a_stop_does_not_hold_up_those_who_have_not_seen_it(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        client.register(vector())
        for _ in range(5 if client.rank else 2):
            client.push_pull(vector(1.0))
        client.stop("enough")
        while client.rank == 0 and not client.should_stop:
            client.spend(0.001)
        return client.clock

    assert run(seed, train, workers=3) == [2, 5, 5]


def test_log_shows_in_status(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.log(loss=np.float32(0.5), accuracy=1)
        client.log(loss=0.25 + client.rank, diverged=float("nan"))

    with cluster(seed) as one:
        one.run(train, timeout=DEADLINE_S)
        logged = [worker["logged"] for worker in one.status()["workers"]]
        assert logged == [{"loss": 0.25, "accuracy": 1.0}, {"loss": 1.25, "accuracy": 1.0}]


def test_it_is_measured_which_metrics_end_in_values_that_are_left_out(seed: int | None) -> None:
    def train(client: ps.Client) -> dict[str, float]:
        client.log(spike=float("inf"), loss=1.0, fine=1.0)
        client.log(spike=2.0, loss=float("nan"))
        client.log(fine=2.0)
        gauges = client.metrics.snapshot().gauges
        return {dict(labels)["metric"]: value for (name, labels), value in gauges.items() if name == "nonfinite_log"}

    assert run(seed, train, workers=1) == [{"spike": 0.0, "loss": 1.0}]


def test_set_lr_at_a_clock(seed: int | None) -> None:
    def train(client: ps.Client) -> list[float]:
        client.register(vector())
        client.pull()
        if client.rank == 0:
            client.set_lr(1.0, at_clock=2)
        client.barrier()
        values, rates = [], []
        for _ in range(4):
            client.push(vector(1.0))
            client.tick()
            values.append(float(client.pull()["w"][0]))
            rates.append(client.lr)
        assert rates == [0.25, 1.0, 1.0, 1.0]  # the rate of the commit that comes next
        return values

    assert run(seed, train, optimizer="sgd:lr=0.25") == [[-0.25, -0.5, -1.5, -2.5]] * 2


def test_registered_state_goes_round(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        rng = np.random.default_rng(client.rank)
        position = [3]
        bits = rng.bit_generator
        client.register_state("rng", lambda: bits.state, lambda state: setattr(bits, "state", state))
        client.register_state("position", lambda: position[0], lambda value: position.__setitem__(0, value))
        saved = client.state()
        drawn = rng.random(3)
        position[0] = 8
        client.load_state(saved)
        assert (rng.random(3) == drawn).all() and position == [3]
        with pytest.raises(ps.ConfigError, match="'rng' is registered already"):
            client.register_state("rng", dict, lambda _: None)
        with pytest.raises(
            ps.ConfigError, match=r"'momentum' is not registered; known: ps\.compression, rng, position"
        ):
            client.load_state({"position": 5, "momentum": 0})
        assert position == [3], "nothing is loaded of a state that names what is not there"

    run(seed, train)


def test_a_state_that_does_not_fit_is_named(seed: int | None) -> None:
    """By the state, and by the field where the setter has said it, or missed it."""

    def train(client: ps.Client) -> None:
        moment = np.zeros(3)

        def load(state: dict[str, Any]) -> None:
            moment[:] = state["moment"]

        client.register_state("mine", lambda: {"moment": moment.copy()}, load)
        ps.data.leased(8, client, batch=2, epochs=1)
        for state, words in (
            ({"mine": {"moments": 1}}, "'mine': expected 'moment', as state() gives it, got none"),
            (
                {"mine": {"moment": np.ones(4)}},
                "'mine': expected what state() gives, got a state that fails with Value",
            ),
            ({"mine": None}, "'mine': expected what state() gives, got a state that fails with TypeError: "),
            ({"ps.data.data": {"done": []}}, "'ps.data.data': expected 'floor', as state() gives it, got none"),
        ):
            with pytest.raises(ps.ConfigError) as caught:
                client.load_state(state)
            assert str(caught.value).startswith(f"load_state: {words}")
        client.load_state({"mine": {"moment": np.full(3, 2.0)}})
        assert client.state()["mine"]["moment"].tolist() == [2.0] * 3

    run(seed, train)


def test_elastic_averaging_gives_workers_their_own_values_and_readers_those_of_the_servers(seed: int | None) -> None:
    def train(client: ps.Client) -> list[float]:
        client.register(vector(1.0))
        read = []
        for _ in range(4):
            read.append(float(client.pull()["w"][0]))
            client.push(vector(-8.0), weight=5.0)  # at local_lr 0.5: four up
            client.tick()
        return [*read, float(client.pull()["w"][0])]

    with cluster(seed, workers=1, consistency="easgd:alpha=0.25,every=2,local_lr=0.5", optimizer="add") as one:
        read = one.run(train)
        # After two steps 9, the servers' 1: two of the eight go there. Then 15 and 3: three of the twelve.
        assert read == [[1.0, 5.0, 7.0, 11.0, 12.0]]
        assert one.pull()["w"][0] == 6.0


def test_reader_sees_each_slice_in_one_version(seed: int | None) -> None:
    pulls = threading.Semaphore(0)

    def train(client: ps.Client) -> None:
        client.register({"a": np.zeros(30_000, np.float32), "b": np.zeros(30_000, np.float32)})
        while not client.should_stop:
            client.push({"a": np.ones(30_000, np.float32), "b": np.ones(30_000, np.float32)})
            client.tick()
            client.pull()
            pulls.release()

    with cluster(seed, servers=2, consistency=ASYNC, optimizer="sgd:lr=2") as one:
        one.start(train)
        last = 0.0
        for _ in range(5):
            assert pulls.acquire(timeout=DEADLINE_S)
            for value in one.pull().values():
                assert (value == value[0]).all() and value[0] == round(float(value[0]))
            least = float(one.pull(["a"])["a"][0])
            assert least <= last
            last = least
        one.stop("seen enough")
        one.results(timeout=DEADLINE_S)


# ---- data -----------------------------------------------------------------------------------------------------------


def test_shard_gives_every_example_once_per_epoch(seed: int | None) -> None:
    x = np.arange(103)

    def train(client: ps.Client) -> list[list[int]]:
        client.register(vector())
        batches = []
        for rows, doubled in ps.data.shard((x, 2 * x), client, batch=8, epochs=3):
            assert (doubled == 2 * rows).all()
            batches.append(rows.tolist())
            client.push_pull(vector(1.0), weight=len(rows))
        return batches

    parts = run(seed, train, workers=3)
    per_epoch = len(parts[0]) // 3
    assert {len(part) for part in parts} == {3 * per_epoch}
    orders = []
    for epoch in range(3):
        epoch_batches = [part[epoch * per_epoch : (epoch + 1) * per_epoch] for part in parts]
        orders.append([row for part in epoch_batches for batch in part for row in batch])
        assert sorted(orders[-1]) == x.tolist()
    assert orders[0] != orders[1] != orders[2]


def test_epoch_share_ends_an_epoch_early_and_counts_what_is_left_out(seed: int | None) -> None:
    finished = threading.Semaphore(0)  # epochs that worker 0 has finished
    epochs, x = 3, np.arange(40)

    def train(client: ps.Client) -> int:
        client.register(vector())
        seen = 0
        for step, (rows,) in enumerate(ps.data.shard((x,), client, batch=5, epochs=epochs)):
            seen += len(rows)
            if client.rank == 1:  # slower by far
                if seed is not None:
                    client.spend(100.0)
                else:
                    assert finished.acquire(timeout=DEADLINE_S)
                    client.barrier()
            elif seed is None and step % 4 == 3:
                client.epoch_done(step // 4)  # told before the other goes on; told again by shard
                finished.release()
                client.barrier()
            client.push(vector(1.0), weight=len(rows))
            client.tick()
        return seen

    with cluster(seed, consistency=ASYNC, epoch_share=0.5) as one:
        all_of_mine, some = one.run(train, timeout=DEADLINE_S)
        skipped = one.status()["skipped_examples"]
        assert all_of_mine == epochs * len(x) // 2
        assert some + sum(skipped.values()) == all_of_mine and some < all_of_mine
        assert set(skipped) <= set(range(epochs))


def test_shard_ends_when_the_job_is_stopped(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        client.register(vector())
        steps = 0
        for _ in ps.data.shard((np.arange(1000),), client, batch=1, epochs=100):
            client.push_pull(vector(1.0))
            steps += 1
            if steps == 3:
                client.stop("enough")
        return steps

    assert max(run(seed, train)) < 1000
