"""What a worker says that it has waited is the time that it had nothing else to do."""

from __future__ import annotations

import numpy as np
import pytest

from ps.metrics import series
from ps.sim.links import LinkFaults
from ps.worker.client import Client
from tests.sim.helpers import simulate

CLOCKS, SLOW_S = 6, 0.5


def test_waits_add_up_to_what_the_slow_worker_took() -> None:
    seen = {}

    def train(client: Client) -> None:
        client.register({"w": np.zeros(4, np.float32)})
        client.barrier()
        began, busy = client._worker.port.now(), client.busy_s
        told = client.metrics.snapshot().histograms[series("wait")].sum
        for _ in range(CLOCKS):
            client.pull()
            client.spend(SLOW_S if client.rank == 1 else 0.0)
            client.push({"w": np.ones(4, np.float32)})
            client.tick()
        client.barrier()
        whole = client._worker.port.now() - began
        waited = client.metrics.snapshot().histograms[series("wait")].sum - told
        assert waited == pytest.approx(whole - (client.busy_s - busy))
        seen[client.rank] = waited, client.busy_s - busy

    simulate(train, seed=1, workers=2, servers=1, consistency="bsp", faults=LinkFaults(), apply_s=0)
    assert seen[0][0] == pytest.approx(CLOCKS * SLOW_S, rel=0.05) and seen[0][1] == pytest.approx(0, abs=0.01)
    assert seen[1][0] < 0.1 * CLOCKS * SLOW_S and seen[1][1] == pytest.approx(CLOCKS * SLOW_S)
