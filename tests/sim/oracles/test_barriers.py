"""A worker that starts again is not held up at barriers that it has been through; at its last one it waits as ever."""

from __future__ import annotations

import numpy as np
import pytest

from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.worker.client import Client
from tests.sim.helpers import restart, simulate

CLOCKS, STEP_S = 5, 0.1
CALM = LinkFaults()


@pytest.mark.parametrize("model", ["bsp", "ssp:staleness=1", "async"])
@pytest.mark.parametrize("at", [0.01, 0.05, 0.18, 0.35, 0.53, 0.58])
def test_a_script_with_barriers_before_and_after_its_loop_may_be_restarted(model: str, at: float) -> None:
    """Killed before, in and after its loop: each clock of each worker counts once, and all is there at the end."""
    seen = {}

    def train(client: Client) -> None:
        client.barrier()
        client.register({"w": np.zeros(4, np.float32)})
        client.barrier()
        for _ in range(client.clock, CLOCKS):
            client.pull()
            client.spend(STEP_S)
            client.push({"w": np.ones(4, np.float32)})
            client.tick()
        client.barrier()
        seen[client.rank] = client.pull()["w"].tolist()
        client.barrier()

    def plan(sim: Simulator) -> None:
        restart(sim, 1, train, at=at, after=0.02)

    simulate(
        train, seed=2, workers=2, servers=1, consistency=model, optimizer="add", faults=CALM, plan=plan,
        on_worker_loss="wait", timeout_s=5.0,
    )  # fmt: skip
    assert seen == {0: [2.0 * CLOCKS] * 4, 1: [2.0 * CLOCKS] * 4}
