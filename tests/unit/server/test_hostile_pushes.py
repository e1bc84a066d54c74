"""Pushes of factors from anyone: a server answers with an error, keeps nothing, and lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from ps import factors, wire
from ps.compression.choice import FACTORS, RAW
from ps.config import RunConfig
from ps.factors import Factors
from ps.messages import Join, Push, Rejected
from ps.server.runtime import Server
from ps.sim.loop import JOB, Simulator
from ps.transport.base import Message
from ps.types import Array, Clock, PeerId, WorkerId
from ps.worker.client import Client

SHAPE, K = (2048, 1024), 3  # two slices; "b" is a third
ROWS, COLUMNS = 1024, 1024


def started() -> tuple[Server, list[Any]]:
    """A server that holds the slices, and what it will say."""
    simulator = Simulator(RunConfig.check({"workers": 1, "consistency": "async", "optimizer": "sgd:lr=1"}))

    def train(client: Client) -> None:
        client.register({"w": np.ones(SHAPE, np.float32), "b": np.ones(10_000, np.float32)})
        client.pull()

    script = simulator.run_worker(0, train)
    simulator.run()
    assert script.error is None
    server, said = simulator.servers[0], list[Any]()
    server._outbox = type(server._outbox)(lambda to, m: said.extend(wire.decode(m.header, JOB)), server.metrics, JOB)
    return server, said


def valid() -> tuple[Push, list[Array]]:
    """A push of both slices of w and of b, by worker 1, which has never joined."""
    rng = np.random.default_rng(0)
    one = Factors(*(rng.standard_normal((K, n)).astype(np.float32) for n in SHAPE))
    frames: list[Array] = [factors.encode(one, 0, ROWS), factors.encode(one, ROWS, 2 * ROWS)]
    raw = np.ones(10_000, np.float32).view(np.uint8)
    ids, first = np.arange(3), np.ones(3, np.int64)
    codec_K, shared_K = np.array([FACTORS, FACTORS, RAW], np.uint8), np.array([1, 1, 0])
    push = Push(WorkerId(1), 1, Clock(0), 1.0, ids, first, first - 1, codec_K, shared_K)
    return push, [*frames, raw, factors.shared(one).view(np.uint8)]


def why(server: Server, push: Push, buffers: Sequence[Array]) -> str:
    """What the server finds wrong; the message itself must do no harm either."""
    text = server._bad_push(push, buffers)
    held = [buffer.copy() for buffer in buffers]
    released: list[bool] = []
    message = Message(wire.encode(JOB, push), held, lambda: released.append(True))
    server.receive(PeerId("worker:1"), message, 1.0)
    assert released == [True] and not server._frames
    return text or ""


def test_a_valid_push_passes() -> None:
    server, _ = started()
    assert why(server, *valid()) == ""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda p, b: (p, b[:-1]), "expected 4 buffers, got 3"),
        (lambda p, b: (p, [*b, b[-1]]), "expected 4 buffers, got 5"),
        (lambda p, b: (replace(p, shared_K=np.array([1, 2, 0])), b), "expected 5 buffers, got 4"),
        (lambda p, b: (replace(p, shared_K=np.array([2, 2, 0])), b), "shared_K: expected 1 to 1, each at least once"),
        (lambda p, b: (replace(p, shared_K=np.array([2**62, 1, 0])), b), "shared_K: expected 1 to 2"),
        (lambda p, b: (replace(p, shared_K=np.array([0, 1, 0])), b), "shared buffer: expected one, got none"),
        (lambda p, b: (replace(p, shared_K=np.array([1, 1, 1])), b), "expected none with a raw slice, got one"),
        (lambda p, b: (replace(p, codec_K=np.array([11, 11, 11], np.uint8)), b), "shared buffer: expected one"),
        (lambda p, b: (replace(p, codec_K=np.array([11, 5, 0], np.uint8)), b), "codec: expected 0, got 5"),
        (lambda p, b: (replace(p, codec_K=np.array([11, 0, 0], np.uint8)), b), "expected none with a raw slice"),
        (lambda p, b: (replace(p, slice_E=np.array([0, 7, 2])), b), "slice 7: expected one below 3"),
        (lambda p, b: (replace(p, slice_E=np.array([0, 2, 1])), b), "n: expected 10000, got 1048576"),
        (lambda p, b: (p, [b[0], b[1][:-1], *b[2:]]), f"length: expected {16 + 4 * K * ROWS}, got"),
        (lambda p, b: (p, [*b[:3], b[3][:-4]]), f"length of V: expected {4 * K * COLUMNS}, got"),
        (lambda p, b: (p, [*b[:3], np.full(K * COLUMNS, np.nan, np.float32).view(np.uint8)]), "U^T V: expected finite"),
    ],
)
def test_what_is_wrong_is_named(change: Any, text: str) -> None:
    server, _ = started()
    assert text in why(server, *change(*valid()))


def test_who_sends_what_no_honest_worker_sends_is_fenced_and_told_why() -> None:
    server, said = started()
    push, buffers = valid()
    server.receive(PeerId("worker:0"), Message(wire.encode(JOB, Join(WorkerId(0), 2))), 1.0)
    bad = replace(push, worker=WorkerId(0), incarnation=2)
    server.receive(PeerId("worker:0"), Message(wire.encode(JOB, bad), buffers[:-1]), 1.0)
    assert isinstance(said[-1], Rejected) and said[-1].fenced
    assert said[-1].reason == "worker 0: expected 4 buffers, got 3; it is fenced"


def test_mutated_messages_are_refused_and_the_server_lives() -> None:
    server, _ = started()
    before = server.values.contents()
    refused = 0
    for seed in range(400):
        dice = Random(seed)
        push, buffers = valid()
        for _ in range(dice.randint(1, 3)):
            push, buffers = mutated(dice, push, buffers)
        refused += bool(why(server, push, buffers))
    assert refused > 200 and server.values.contents() == before


def mutated(dice: Random, push: Push, buffers: list[Array]) -> tuple[Push, list[Array]]:
    place = dice.randrange(len(buffers)) if buffers else 0
    match dice.randrange(6):
        case 0 if buffers:
            buffers = [*buffers[:place], *buffers[place + 1 :]]
        case 1 if buffers:
            buffers = [*buffers[:place], buffers[place], *buffers[place:]]
        case 2 if buffers:
            buffers = [*buffers[:place], buffers[place][: dice.randrange(64)], *buffers[place + 1 :]]
        case 3 if buffers:
            changed = buffers[place].copy()
            for _ in range(4 if changed.size else 0):
                changed[dice.randrange(min(changed.size, 32))] = dice.randrange(256)
            buffers = [*buffers[:place], changed, *buffers[place + 1 :]]
        case 4:
            push = replace(push, shared_K=np.array([dice.choice([0, 0, 1, 1, 2, 3, 2**40]) for _ in push.slice_E]))
        case _:
            push = replace(push, codec_K=np.array([dice.choice([0, 11, 11, 1, 255]) for _ in push.slice_E], np.uint8))
    return push, buffers
