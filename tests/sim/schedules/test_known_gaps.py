"""What random schedules found and leave out until it is closed; an expected failure that passes is a failure.

The initial values that die with their only sender are in tests/sim/oracles/test_known_gaps.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from ps.keyspace import Options
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.worker.client import Client
from tests.sim.helpers import restart, simulate

ONE = np.ones(2, np.float32)


@pytest.mark.xfail(
    reason="Enrolled names no asker: the answer to a dead incarnation is taken by the next one at the same address",
    raises=AssertionError,
)
def test_a_restart_amid_enrolment_gets_an_incarnation_of_its_own() -> None:
    def train(client: Client) -> None:
        client.register({"a": ONE})
        client.pull()

    def plan(sim: Simulator) -> None:
        restart(sim, 0, train, at=0.0005)

    simulate(train, seed=1, workers=1, on_worker_loss="wait", faults=LinkFaults(), plan=plan)


@pytest.mark.xfail(
    reason="who is late on a slice and does not pull it never delivers it; others wait there, it waits for them here",
    raises=AssertionError,
)
def test_quorum_workers_that_pull_part_of_the_slices_do_not_wait_for_one_another() -> None:
    def train(client: Client) -> None:
        client.register({"a": ONE, "b": ONE}, {"b": Options(lr_scale=0.5)})  # two slices
        client.pull()
        for _ in range(4):
            pushed = client.push({"a": ONE, "b": ONE})
            client.tick()
            if client.rank == 0:
                pushed.result()
            client.pull(["a"] if client.rank == 0 else None)

    simulate(train, seed=1, workers=2, consistency="quorum:n=2", faults=LinkFaults())
