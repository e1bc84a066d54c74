"""A run whose gradients know nothing of the values, recorded and replayed: shared by tests of recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ps
from ps.record.reader import recordings
from ps.record.replay import Changes, Outcome, Replay, total
from ps.types import Array

SHAPES = {"w": (40, 60), "x": (50, 30), "b": (7,), "d": (30, 20)}
CLOCKS = 8
MOMENTUM = "momentum:lr=0.1,decay=0.9"
Train = Callable[[ps.Client], Any]


def gradients(rank: int, clock: int) -> dict[str, Array]:
    """They know nothing of the values: what an open-loop replay takes for granted."""
    rng = np.random.default_rng([rank, clock])
    return {name: rng.standard_normal(shape).astype(start()[name].dtype) for name, shape in SHAPES.items()}


def start() -> dict[str, Array]:
    """One of them in float64."""
    return {name: np.ones(shape, np.float64 if name == "d" else np.float32) for name, shape in SHAPES.items()}


def train(client: ps.Client) -> None:
    client.register({**start(), "counts": np.arange(5)})
    while client.clock < CLOCKS:
        client.pull()
        client.spend(0.01 * (1 + client.rank))
        client.push(gradients(client.rank, client.clock), weight=1.0 + client.rank)
        client.tick()


def record(folder: Path, train: Train = train, **options: Any) -> str:
    """Runs and records; the cluster's checksum."""
    given = {"servers": 2, "workers": 3, "optimizer": MOMENTUM, "seed": 1, **options}
    with ps.LocalCluster(**given, record=folder) as cluster:
        cluster.run(train)
        return cluster.checksum()


def replayed(folder: Path, **changes: Any) -> tuple[list[Outcome], str]:
    """The outcomes, and the checksum of all servers."""
    replays = [Replay(one, Changes(**changes)) for one in recordings(folder)]
    outcomes = [one.run() for one in replays]
    return outcomes, f"{total(replays):08x}"


def one_slice(client: ps.Client) -> None:
    client.register({"w": start()["w"]})
    for clock in range(CLOCKS):
        client.pull()
        client.spend(0.01 * (1 + client.rank))
        client.push({"w": gradients(client.rank, clock)["w"]})
        if clock == 5 and client.rank == 0:
            client.set_lr(0.2)
        client.tick()
