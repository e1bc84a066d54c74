"""What a worker says that it has waited is the time that it had nothing else to do."""

from __future__ import annotations

import numpy as np
import pytest

from ps.config import RunConfig
from ps.metrics import series
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.sim.network import Host, Network
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


def test_a_run_counts_from_its_first_clock_and_steps_from_tick_to_tick() -> None:
    """The first pull is some thirty times what one of a step brings, and logging has made a report just before."""
    config = RunConfig.check({"servers": 1, "workers": 1, "consistency": "bsp", "compression": "onebit:min_elements=0"})
    simulator = Simulator(config, network=Network(worker=Host(rate=1e6, delay_s=1e-3)))
    ticked: list[float] = []

    def train(client: Client) -> None:
        client.register({"w": np.zeros(300_000, np.float32)})
        client.pull()
        for _ in range(CLOCKS):
            client.spend(0.01)
            client.log(loss=1.0)
            client.push({"w": np.ones(300_000, np.float32)})
            client.tick()
            ticked.append(client._worker.port.now())
            client.pull()
        found = client.metrics.snapshot().histograms[series("loop")]
        assert found.n == CLOCKS - 1 and found.sum == pytest.approx(ticked[-1] - ticked[0])

    script = simulator.run_worker(0, train)
    simulator.run()
    assert script.error is None and script.is_over
    assert ticked[0] > 5 * (ticked[1] - ticked[0]), "the first clock is long"
    assert simulator.controller.core.began_at == pytest.approx(ticked[0], abs=2e-3), "a message later"
