"""What an event costs each core alone: no arrays of values, no threads, nothing encoded.

An event is one call of the training loop or one message with all its slices. Before the clock starts every message
exists; finished applies are reported at once, as by a server that computes them itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.harness import Bench, Function, checksum
from ps.consistency import consistency
from ps.controller.core import Controller
from ps.keyspace import Parameter
from ps.messages import (
    Barrier,
    Enroll,
    Join,
    Log,
    Place,
    Progress,
    Pull,
    Push,
    Spec,
    Tick,
    Values,
)
from ps.optim import optimizer, schedule
from ps.server.actions import Action, Answer, Apply, Send
from ps.server.core import Shard
from ps.types import CONTROLLER, Clock, WorkerId, worker_peer
from ps.worker.actions import Action as WorkerAction
from ps.worker.actions import Send as WorkerSend
from ps.worker.core import Session

SLICE_ELEMENTS = 4096  # 16 KiB of float32


# ---- the floor ------------------------------------------------------------------------------------------------------


def bench_floor(bench: Bench) -> None:
    """What no core in Python can beat: find the handler of an event, change one number, return one action."""
    events = bench.size(smoke=100, full=200_000)
    ids = np.arange(1)
    pushes = [Push(WorkerId(0), 1, Clock(0), 1.0, ids, ids, ids)] * events
    count_S, answer = np.zeros(1, np.int64), [Send(CONTROLLER, None)]

    def handle(message: Any) -> list[Send]:
        match message:
            case Tick():
                raise AssertionError("no tick is sent here")
            case Push():
                count_S[0] += 1
        return answer

    with bench.timed(events=events):
        for push in pushes:
            handle(push)
    bench.check(checksum(count_S))


# ---- Shard ----------------------------------------------------------------------------------------------------------


def new_shard(model: str, slices: int, workers: int) -> Shard:
    """A shard with initialised slices, whose workers have all joined."""
    rule = optimizer("sgd:lr=0.1")
    shard = Shard(0, workers, consistency(model), rule, schedule("constant"))
    specs = tuple(Spec.of(Parameter(f"w{i}", (SLICE_ELEMENTS,), "float32")) for i in range(slices))
    shard.handle(Place(0, specs, 1, np.zeros(slices, np.int64)), 0.0)
    for worker in range(workers):
        shard.handle(Join(WorkerId(worker), 1), 0.0)
    shard.on_init(0, np.arange(slices), 0.0)
    return shard


def feed(shard: Shard, message: Any) -> list[Action]:
    """One event and the applies that it starts."""
    actions = shard.handle(message, 0.0)
    for action in actions:  # grows while it is walked: an apply may free its slice for the next one
        if isinstance(action, Apply):
            actions += shard.on_applied(action.commits, 0.0)
    return actions


def pushes_of(model: str, slices: int, workers: int, clock: int) -> Iterator[Push]:
    """Every worker's push of a clock, computed on what its last pull gave when workers come in rank order."""
    ids = np.arange(slices)
    for worker in range(workers):
        base = clock if model == "bsp" else max(0, (clock - 1) * workers + worker + 1)
        yield Push(WorkerId(worker), 1, Clock(clock), 1.0, ids, np.full(slices, clock + 1), np.full(slices, base))


def tick_after(push: Push) -> Tick:
    """The end of the push's clock."""
    return Tick(push.worker, 1, push.clock, push.slice_E, push.seq_E, push.base_E)


def pull_at(worker: int, number: int, clock: int, slices: int) -> Pull:
    """A pull at the start of `clock`, with one push in every clock before."""
    return Pull(WorkerId(worker), 1, number, number, Clock(clock), False, np.arange(slices), np.full(slices, clock))


def clocks_of(bench: Bench, slices: int, workers: int) -> int:
    """As many as give the same number of pushed slices, whatever their spread over events."""
    return bench.size(smoke=1, full=max(2, 4096 // (slices * workers)))


def time_shard(bench: Bench, shard: Shard, messages: list[Any]) -> None:
    """Times the events; checks the shard's whole state and what the last one led to."""
    last: list[Action] = []
    with bench.timed(events=len(messages)):
        for message in messages:
            last = feed(shard, message)
    bench.check(checksum(*shard.ledger.state(), repr(last).encode()))


def shard_round(model: str, slices: int, workers: int) -> Function:
    """Whole clocks: each worker in turn pushes, ticks and pulls."""

    def bench_shard(bench: Bench) -> None:
        messages: list[Any] = []
        for clock in range(clocks_of(bench, slices, workers)):
            for push in pushes_of(model, slices, workers, clock):
                messages += (push, tick_after(push), pull_at(push.worker, clock + 1, clock + 1, slices))
        time_shard(bench, new_shard(model, slices, workers), messages)

    return bench_shard


def shard_push(model: str, slices: int, workers: int) -> Function:
    """Pushes alone: `async` applies each, `bsp` gathers them."""

    def bench_shard(bench: Bench) -> None:
        clocks = range(clocks_of(bench, slices, workers))
        pushes: list[Any] = [push for clock in clocks for push in pushes_of(model, slices, workers, clock)]
        time_shard(bench, new_shard(model, slices, workers), pushes)

    return bench_shard


def shard_tick(model: str, slices: int, workers: int) -> Function:
    """Ticks alone, their pushes are all in: under `bsp` each last one commits its clock."""

    def bench_shard(bench: Bench) -> None:
        clocks = range(clocks_of(bench, slices, workers))
        pushes = [push for clock in clocks for push in pushes_of(model, slices, workers, clock)]
        shard = new_shard(model, slices, workers)
        for push in pushes:
            feed(shard, push)
        time_shard(bench, shard, [tick_after(push) for push in pushes])

    return bench_shard


def shard_pull(model: str, slices: int, workers: int) -> Function:
    """Pulls alone, at a clock that is open to all."""

    def bench_shard(bench: Bench) -> None:
        shard = new_shard(model, slices, workers)
        for push in pushes_of(model, slices, workers, 0):
            feed(shard, push)
            feed(shard, tick_after(push))
        numbers = range(1, clocks_of(bench, slices, workers) + 1)
        time_shard(bench, shard, [pull_at(w, number, 1, slices) for number in numbers for w in range(workers)])

    return bench_shard


bench_shard_bsp_1x4 = shard_round("bsp", slices=1, workers=4)
bench_shard_bsp_8x4 = shard_round("bsp", slices=8, workers=4)
bench_shard_bsp_64x4 = shard_round("bsp", slices=64, workers=4)
bench_shard_bsp_1x64 = shard_round("bsp", slices=1, workers=64)
bench_shard_bsp_8x64 = shard_round("bsp", slices=8, workers=64)
bench_shard_bsp_64x64 = shard_round("bsp", slices=64, workers=64)
bench_shard_async_1x4 = shard_round("async", slices=1, workers=4)
bench_shard_async_8x4 = shard_round("async", slices=8, workers=4)
bench_shard_async_64x4 = shard_round("async", slices=64, workers=4)
bench_shard_async_1x64 = shard_round("async", slices=1, workers=64)
bench_shard_async_8x64 = shard_round("async", slices=8, workers=64)
bench_shard_async_64x64 = shard_round("async", slices=64, workers=64)

bench_shard_push_bsp_8x4 = shard_push("bsp", slices=8, workers=4)
bench_shard_tick_bsp_8x4 = shard_tick("bsp", slices=8, workers=4)
bench_shard_pull_bsp_8x4 = shard_pull("bsp", slices=8, workers=4)
bench_shard_push_bsp_64x64 = shard_push("bsp", slices=64, workers=64)
bench_shard_tick_bsp_64x64 = shard_tick("bsp", slices=64, workers=64)
bench_shard_pull_bsp_64x64 = shard_pull("bsp", slices=64, workers=64)
bench_shard_push_async_8x4 = shard_push("async", slices=8, workers=4)
bench_shard_tick_async_8x4 = shard_tick("async", slices=8, workers=4)
bench_shard_pull_async_8x4 = shard_pull("async", slices=8, workers=4)
bench_shard_push_async_64x64 = shard_push("async", slices=64, workers=64)
bench_shard_tick_async_64x64 = shard_tick("async", slices=64, workers=64)
bench_shard_pull_async_64x64 = shard_pull("async", slices=64, workers=64)


# ---- Session --------------------------------------------------------------------------------------------------------


def told(shard: Shard, sends: list[WorkerAction]) -> list[Any]:
    """What the worker hears when these messages have reached the shard."""
    heard: list[Any] = []
    for send in sends:
        assert isinstance(send, WorkerSend)
        for action in feed(shard, send.body):
            match action:
                case Send(to, body) if to != CONTROLLER:
                    heard.append(body)
                case Answer(_, id, _, slices, _, version_E, min_clock_E, lr, rate):
                    heard.append(Values(id, slices, version_E, min_clock_E, lr, rate))
    return heard


def joined_session(model: str, slices: int, welcome: list[Any]) -> Session:
    """A session that knows its slices and was welcomed."""
    session = Session(0, 1, consistency(model), shards=1)
    session.place(np.zeros(slices, np.int64), np.full(slices, 64))
    session.join(0.0)
    for message in welcome:
        session.handle(0, message, 0.0)
    return session


def session_round(model: str, slices: int) -> Function:
    """Clocks of one worker: push, tick, pull, every answer, and the look at the timers that follows each of them.

    The answers are those of a shard to an equal session before.
    """

    def bench_session(bench: Bench) -> None:
        clocks = range(bench.size(smoke=1, full=max(2, 4096 // slices)))
        ids = np.arange(slices)
        shard = new_shard(model, slices, workers=1)
        welcome = told(shard, [WorkerSend(worker_peer(0), Join(WorkerId(0), 1))])

        def clock_of(session: Session, hear: Callable[[list[WorkerAction]], None]) -> None:
            hear(session.push(ids, 1.0, 0.0)[1])
            hear(session.tick(0.0))
            hear(session.pull(ids, 0.0)[1])

        first, answers = joined_session(model, slices, welcome), deque[list[Any]]()

        def rehearse(sends: list[WorkerAction]) -> None:
            answers.append(told(shard, sends))
            for message in answers[-1]:
                first.handle(0, message, 0.0)

        for _ in clocks:
            clock_of(first, rehearse)
        second, sent = joined_session(model, slices, welcome), 0

        def replay(sends: list[WorkerAction]) -> None:
            nonlocal sent
            sent += len(sends) + len(second.on_timer(0.0))
            for message in answers.popleft():
                second.handle(0, message, 0.0)
                sent += len(second.on_timer(0.0))

        with bench.timed(events=len(answers) + sum(map(len, answers))):
            for _ in clocks:
                clock_of(second, replay)
        assert not second.pulls and second.is_settled
        bench.check(checksum(second.seq_S, second.base_S, second.min_clock_S, str(sent).encode()))

    return bench_session


bench_session_bsp_1 = session_round("bsp", slices=1)
bench_session_bsp_8 = session_round("bsp", slices=8)
bench_session_bsp_64 = session_round("bsp", slices=64)
bench_session_async_1 = session_round("async", slices=1)
bench_session_async_8 = session_round("async", slices=8)
bench_session_async_64 = session_round("async", slices=64)


# ---- Controller -----------------------------------------------------------------------------------------------------


def controller_clocks(workers: int) -> Function:
    """Clocks in which every worker reports progress, logs a loss and meets the others at a barrier."""

    def bench_controller(bench: Bench) -> None:
        clocks = bench.size(smoke=1, full=max(2, 16384 // workers))
        controller = Controller(workers, 1, "{}")
        peers = [worker_peer(worker) for worker in range(workers)]
        for worker, peer in enumerate(peers):
            controller.handle(peer, Enroll(WorkerId(worker), False, 0), 0.0)
        messages: list[tuple[int, Any]] = []
        for clock in range(1, clocks + 1):
            for worker in range(workers):
                rank = WorkerId(worker)
                messages.append((worker, Progress(rank, 1, Clock(clock))))
                messages.append((worker, Log(rank, 1, Clock(clock), 0.0, ("loss",), (1.0 / clock,))))
                messages.append((worker, Barrier(rank, 1, clock, True)))
        sends = []
        with bench.timed(events=len(messages)):
            for worker, message in messages:
                sends += controller.handle(peers[worker], message, 0.0)
        opened = repr(sends[-workers:]).encode()
        bench.check(checksum(opened, f"{len(sends)} {controller.clock()} {controller.members}".encode()))

    return bench_controller


bench_controller_4 = controller_clocks(workers=4)
bench_controller_64 = controller_clocks(workers=64)
