"""The simulation without payload against the one with it, against itself, and against the laws of stragglers."""

from __future__ import annotations

import hashlib
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

import ps
from ps.config import RunConfig
from ps.server.ledger import Record
from ps.sim.network import Host, Network
from ps.sim.scale import Outcome, Profile, random_of, simulate
from tests.sim.helpers import record_key

PARAMETERS = {"a": (700, 40), "b": (1000,), "c": (300, 7, 11), "d": (3,), "large": (1100, 1000), "e": (64, 65)}
BUSY = Network(
    worker=Host(rate=3e6, delay_s=1e-3),
    server=Host(rate=5e6, delay_s=2e-3),
    hosts={"both": Host(rate=4e6, loopback=8e6)},
    place={"worker:1": "both", "server:0": "both"},
    frame_bytes=60,
    encode_s_per_byte=2e-8,
    apply_s_per_byte=3e-8,
    worker_message_s=3e-4,
    server_message_s=2e-4,
)
CLOCKS, SEED = 6, 11
MODELS = (
    "bsp",
    "ssp:staleness=1",
    "async",
    "quorum:n=3",
    "downpour:push_every=2,pull_every=3,local_lr=0.1",
    "local:every=2,local_lr=0.1",
    "easgd:alpha=0.2,every=2,local_lr=0.1",
)


def exponential(rank: int, random: Random) -> float:
    return random.expovariate(1.0)


def config_of(consistency: str, workers: int, servers: int, optimizer: str = "sgd:lr=0.1") -> RunConfig:
    spelled = dict(workers=workers, servers=servers, consistency=consistency, seed=SEED)
    optimizer = "add" if consistency.startswith("easgd") else optimizer
    return RunConfig.check({**spelled, "optimizer": optimizer, "timeout_s": 1e6, "resend_s": 1e6})


def with_payload(config: RunConfig, network: Network) -> NDArray[np.float64]:
    """When each worker had the values after each of its clocks, from threads, runtimes and arrays."""
    end_CW = np.zeros((CLOCKS + 1, config.workers))
    grads = {name: np.full(shape, 1e-6, np.float32) for name, shape in PARAMETERS.items()}

    def train(client: ps.Client) -> None:
        rank, random, now = client.rank, random_of(SEED, client.rank), client._worker.port.now
        client.register({name: np.zeros(shape, np.float32) for name, shape in PARAMETERS.items()})
        client.barrier()
        began = 1e3  # nothing of the start is under way any more
        client.spend(began - now())
        client.pull()
        end_CW[0, rank] = now() - began
        for clock in range(1, CLOCKS + 1):
            client.spend(exponential(rank, random))
            client.push_pull(grads)
            end_CW[clock, rank] = now() - began

    options = config.model_dump(exclude_defaults=True)
    with ps.LocalCluster(**options, network=network) as cluster:
        cluster.run(train)
    return end_CW


@pytest.mark.parametrize("optimizer", ["sgd:lr=0.1", "momentum:lr=0.1,decay=0.9"])
@pytest.mark.parametrize("consistency", MODELS)
def test_it_takes_the_same_times_as_with_payload(consistency: str, optimizer: str) -> None:
    config = config_of(consistency, workers=4, servers=2, optimizer=optimizer)
    expected_CW = with_payload(config, BUSY)
    outcome = simulate(config, Profile(PARAMETERS, exponential), BUSY, CLOCKS, SEED)
    assert outcome.end_CW == pytest.approx(expected_CW, abs=1e-9)
    assert outcome.clock_s > 0.1
