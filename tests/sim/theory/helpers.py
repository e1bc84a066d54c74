"""Runs one training function on every worker of a simulated cluster with one server, and shows each of its commits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ps.config import RunConfig
from ps.server.ledger import Commit, Record
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.worker.client import Client

F64 = NDArray[np.float64]
LINK_S = 1e-6  # virtual seconds that a message takes: next to nothing beside a step, and the same for all
PATIENCE_S = 1e9  # nothing is ever sent again, nobody gives up: virtual seconds cost nothing


def simulate(
    train: Callable[[Client], Any],
    on_commit: Callable[[Commit, F64], None] | None = None,
    staleness: str | None = None,
    **options: Any,
) -> list[Any]:
    """What `train` returned, by rank. on_commit: sees every commit and the values that it made, which it must copy.
    staleness: imposed on a single asynchronous worker."""

    def watch(shard: int, record: Record) -> None:
        if on_commit is not None and isinstance(record, Commit):
            on_commit(record, simulator.servers[0].values.current[record.slice].array)

    config = RunConfig.check(dict(resend_s=PATIENCE_S, timeout_s=PATIENCE_S) | options)
    simulator = Simulator(config, LinkFaults(delay_s=LINK_S, jitter_s=0.0), watch=watch, staleness=staleness)
    scripts = [simulator.run_worker(rank, train) for rank in range(config.workers)]
    simulator.run()
    for script in scripts:
        if script.error is not None:
            raise script.error
    return [script.result for script in scripts]


def round_robin(
    gradient: Callable[[F64], F64],
    x0_N: F64,
    commits: int,
    workers: int,
    optimizer: str,
    keep: Callable[[F64], Any] = np.copy,
) -> F64:
    """Asynchronous workers of equal speed take turns on one parameter; at least so many commits.

    Row t is what `keep` makes of the values after t commits, row 0 of x0. A gradient is committed P - 1 commits after
    its values were pulled, less only at the start, where all have pulled x0: this is checked.
    """
    rows = [keep(x0_N)]
    staleness = []

    def train(client: Client) -> None:
        client.register({"x": x0_N})
        client.spend(client.rank)
        x_N = client.pull()["x"]
        for _ in range(-(-commits // client.size)):
            client.spend(client.size)
            x_N = client.push_pull({"x": gradient(x_N)})["x"]
        client.barrier()  # who leaves early raises the rate 1/live of the others

    def on_commit(commit: Commit, values_N: F64) -> None:
        rows.append(keep(values_N.reshape(x0_N.shape)))
        staleness.append(commit.staleness)

    simulate(train, on_commit, consistency="async", workers=workers, optimizer=optimizer)
    expected = [min(t, workers - 1) for t in range(len(staleness))]
    assert staleness == expected, f"staleness: expected {workers - 1} after the start, got {staleness[:100]} ..."
    return np.array(rows)


def imposed(
    gradient: Callable[[F64], F64],
    x0_N: F64,
    commits: int,
    staleness: str,
    optimizer: str,
    keep: Callable[[F64], Any] = np.copy,
) -> tuple[F64, list[int]]:
    """One worker on whose pushes the simulator imposes a staleness; rows as of `round_robin`, and what was imposed."""
    rows = [keep(x0_N)]
    found = []

    def train(client: Client) -> None:
        client.register({"x": x0_N})
        x_N = client.pull()["x"]
        for _ in range(commits):
            x_N = client.push_pull({"x": gradient(x_N)})["x"]

    def on_commit(commit: Commit, values_N: F64) -> None:
        rows.append(keep(values_N.reshape(x0_N.shape)))
        found.append(commit.staleness)

    simulate(train, on_commit, staleness, consistency="async", workers=1, optimizer=optimizer)
    return np.array(rows), found
