"""`async def train` and AsyncClient: the same calls, awaited."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import numpy as np
import pytest

import ps
from tests.integration.helpers import DEADLINE_S, assert_equal, cluster, model, noise, our_threads, run, steps


async def awaited(client: ps.AsyncClient, clocks: int) -> dict[str, Any]:
    """What helpers.steps does."""
    rng = np.random.default_rng(client.rank)
    await client.register(model())
    while client.clock < clocks:
        grads = noise(await client.pull(), rng)
        await client.push(grads, client.rank + 1)
        await client.tick()
    await client.barrier()
    return await client.pull()


class Trainer:
    """A callable object, not a function."""

    async def __call__(self, client: ps.AsyncClient) -> int:
        return client.rank


def test_async_train_gives_what_plain_train_gives(seed: int | None) -> None:
    plain = run(seed, steps(5), servers=2)
    assert_equal(run(seed, partial(awaited, clocks=5), servers=2)[1], plain[1])
    assert our_threads() == []


def test_async_train_in_a_running_loop_and_from_a_callable_object(seed: int | None) -> None:
    async def main() -> list[Any]:
        return run(seed, Trainer())

    assert asyncio.run(main()) == [0, 1]


def test_every_call_has_its_awaited_form(seed: int | None) -> None:
    async def train(client: ps.AsyncClient) -> list[Any]:
        x = {"w": np.ones(3, np.float32)}
        registered = await client.register(x, {"w": ps.Options(lr_scale=0.5)}, timeout=10)
        assert registered["w"] is x["w"]
        assert (client.size, client.seed, client.clock) == (2, seed or 0, 0)
        out = {"w": np.zeros(3, np.float32)}
        assert (await client.pull(["w"], out=out, timeout=10))["w"] is out["w"]
        future = await client.push(x, weight=2, copy=False, timeout=10)
        await client.tick()
        assert await client.verdict(future, 10) == {"'w'": ps.Applied(1)}
        await client.log(loss=0.5)
        if client.rank == 0:
            await client.set_lr(1.0, at_clock=1)
        await client.barrier(timeout=10)
        values = await client.push_pull(x, out=out)
        assert client.lr == 1.0 and values["w"] is out["w"]
        assert not await client.should_stop
        await client.barrier()
        await client.stop("enough")
        while not await client.should_stop:
            client.sync.spend(0.001)
        return [float(value) for value in values["w"]]

    with cluster(seed, optimizer="sgd:lr=0.5") as one:
        assert one.run(train, timeout=DEADLINE_S) == [[0.25] * 3] * 2
        assert one.status()["stopped"] == "worker 0: enough" or one.status()["stopped"] == "worker 1: enough"


def test_other_tasks_run_while_a_call_waits() -> None:
    async def train(client: ps.AsyncClient) -> list[str]:
        order = []
        await client.register({"w": np.zeros(3, np.float32)})

        async def wait() -> None:
            await client.barrier()
            order.append("barrier")

        async def work() -> None:
            order.append("work")
            await client.log(worked=1)  # runs after the barrier: one call at a time
            order.append("logged")

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        if client.rank == 0:
            await work()
        await waiting
        return order

    first, second = run(None, train)
    assert first == ["work", "barrier", "logged"] and second == ["barrier"]


def test_data_shard_takes_the_client_inside(seed: int | None) -> None:
    async def train(client: ps.AsyncClient) -> int:
        await client.register({"w": np.zeros(3, np.float32)})
        with pytest.raises(ps.ConfigError, match=r"expected a ps.Client, got AsyncClient; write client.sync"):
            ps.data.shard((np.arange(9),), client, batch=2, epochs=1)  # type: ignore[arg-type]
        seen = 0
        for (rows,) in ps.data.shard((np.arange(9),), client.sync, batch=2, epochs=2):
            seen += len(rows)
            await client.push_pull({"w": np.ones(3, np.float32)})
        return seen

    assert sum(run(seed, train)) == 18


def test_failure_of_an_async_train_comes_out_and_leaves_no_thread(seed: int | None) -> None:
    async def train(client: ps.AsyncClient) -> None:
        await client.register({"w": np.zeros(3, np.float32)})
        await client.barrier()
        if client.rank == 1:
            raise KeyError("lost")
        await client.tick()
        await client.pull()

    with pytest.raises(KeyError, match="lost"):
        run(seed, train)
    assert our_threads() == []


def test_killed_async_worker_leaves_no_thread(seed: int | None) -> None:
    async def train(client: ps.AsyncClient) -> int:
        await client.register({"w": np.zeros(3, np.float32)})
        while client.clock < 6:
            await client.push_pull({"w": np.ones(3, np.float32)})
            if client.rank == 1 and client.clock == 3:
                one.kill("worker:1")
        return client.clock

    with cluster(seed, workers=3) as one:
        assert one.run(train, timeout=DEADLINE_S) == [6, None, 6]
    assert our_threads() == []


def test_async_client_around_a_connected_one(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> float:
        async with ps.AsyncClient(ps.connect()) as client:
            await client.register({"w": np.zeros(3, np.float32)})
            return float((await client.push_pull({"w": np.ones(3, np.float32)}))["w"][0])

    assert asyncio.run(main()) == pytest.approx(-0.1)
    assert our_threads() == [] and "one-worker cluster" in capsys.readouterr().err
