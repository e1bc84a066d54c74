"""A job that its machines have no memory for ends before it takes any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ps import wire
from ps.config import RunConfig
from ps.control.frames import Body, to_controller
from ps.control.hello import Hello
from ps.control.hub import Hub
from ps.control.lines import Line
from ps.keyspace import Parameter
from ps.messages import BatchReady, Enroll, Placed, Register, Spec
from ps.types import WorkerId

JOB = bytes(16)
MIB = 1 << 20
N = 16 * MIB  # bytes of the parameter: a server of bsp takes 2 N with one worker and 3 N with two, each worker N


def run(config: RunConfig, story: Callable[[Hub], None]) -> Hub:
    async def told() -> Hub:
        hub = Hub(config, JOB, 60.0, lambda: None)
        story(hub)
        return hub

    return asyncio.run(told())


def join(hub: Hub, hello: Hello, register: bool = True, incarnation: int = 1) -> Line:
    line = hub.open()
    hub.receive(line, to_controller(hello))
    if hello.role == "worker":
        say(hub, line, Enroll(WorkerId(hello.rank), False, 1))
        if register:
            specs = (Spec.of(Parameter("w", (N // 4,), "float32")),)
            say(hub, line, Register(WorkerId(line.rank), incarnation, 0, specs))
    return line


def say(hub: Hub, line: Line, body: object) -> None:
    hub.receive(line, to_controller(Body(wire.encode(JOB, body))))


def server(machine: str, free: int) -> Hello:
    return Hello("server", data_address="tcp://h:1", machine=machine, memory_available=free)


def worker(rank: int, machine: str, free: int) -> Hello:
    return Hello("worker", rank=rank, machine=machine, memory_available=free)


def test_a_machine_without_room_for_all_that_run_on_it_is_named() -> None:
    def story(hub: Hub) -> None:
        join(hub, server("alpha/1", 5 * N - 1))
        join(hub, worker(0, "alpha/1", 5 * N - 1))
        assert hub.core.stopped is None  # 4 N
        join(hub, worker(1, "alpha/1", 4 * N))  # less is free by then: the others have taken some

    hub = run(RunConfig(workers=2), story)
    assert hub.core.stopped is not None and hub.core.stopped.failed
    assert hub.core.stopped.reason.startswith(
        "memory of alpha: expected 80 MiB for server 0, worker 0, worker 1, beside what the scripts take for "
        "themselves, got 80 MiB free; use larger or more machines"
    )
    memory = hub.status()["memory"]
    assert memory["servers"] == [3 * N] and memory["worker"] == N and memory["words"].startswith("4.2 M parameters")


def test_machines_are_apart_and_what_is_not_known_is_not_held_against_them() -> None:
    def story(hub: Hub) -> None:
        join(hub, server("alpha/1", 3 * N))
        join(hub, worker(0, "alpha/2", N))
        join(hub, worker(1, "beta/1", 0))

    assert run(RunConfig(workers=2), story).core.stopped is None


def test_once_the_values_are_in_nobody_is_turned_away() -> None:
    """A worker that starts again finds the memory taken by those that it had room beside."""

    def story(hub: Hub) -> None:
        shard, first = (
            join(hub, server("alpha/1", 4 * N)),
            join(hub, worker(0, "alpha/1", 4 * N)),
        )  # `wait`: one version more
        say(hub, shard, Placed(0, hub.core.batches.map.epoch))
        say(hub, first, BatchReady(WorkerId(0), 1, 0))
        assert hub.core.batches.all[0].ready
        hub.closed(first)
        join(hub, worker(0, "alpha/1", 0), incarnation=2)
        join(hub, worker(1, "alpha/1", N // 2))

    assert run(RunConfig(workers=1, on_worker_loss="wait"), story).core.stopped is None
