"""Step times in virtual time are what the formulas say of bytes and rates (algorithms.md 1.1, 9 #11)."""

from __future__ import annotations

import numpy as np
import pytest

import ps
from ps.errors import ConfigError
from ps.sim.network import Host, Network
from ps.types import Array

SLICE_BYTES = 64 << 10  # small arrays on slow cards: only the ratio counts
SLICES = 8  # a common multiple of all numbers of servers here
NBYTES = SLICES * SLICE_BYTES  # 4 n
CLOCKS = 4


def step_s(network: Network, workers: int, servers: int, consistency: str = "bsp", slices: int = SLICES) -> float:
    """Seconds of a dense step that computes nothing."""
    size = NBYTES // 4 // slices
    times: dict[int, list[float]] = {}

    def train(client: ps.Client) -> None:
        client.register({f"w{i}": np.zeros(size, np.float32) for i in range(slices)})
        grads: dict[str, Array] = {f"w{i}": np.ones(size, np.float32) for i in range(slices)}
        client.pull()
        client.barrier()
        times[client.rank] = [client._worker.port.now()]
        for _ in range(CLOCKS):
            client.push_pull(grads)
            times[client.rank].append(client._worker.port.now())

    with ps.LocalCluster(
        servers, workers, consistency=consistency, seed=1, network=network, timeout_s=1e6, resend_s=1e6
    ) as cluster:
        cluster.run(train)
    return (max(row[-1] for row in times.values()) - max(row[0] for row in times.values())) / CLOCKS


@pytest.mark.parametrize(("workers", "servers"), [(1, 1), (4, 1), (4, 2), (4, 8), (3, 8)])
@pytest.mark.parametrize("rates", [(1e6, 1e6), (1e6, 4e6), (2e6, 1e6)])
def test_a_dense_step_takes_what_the_busiest_card_takes_each_way(
    workers: int, servers: int, rates: tuple[float, float]
) -> None:
    worker, server = rates
    network = Network(worker=Host(rate=worker), server=Host(rate=server))
    bound = max(NBYTES / worker, NBYTES * workers / (servers * server))
    # One slice per server: nothing of a step comes back before all of it has arrived.
    assert step_s(network, workers, servers, slices=servers) == pytest.approx(2 * bound, rel=0.02)
    # With more of them the directions overlap, and no card is faster than it is.
    assert bound < step_s(network, workers, servers) < 2 * bound * 1.02


def test_throughput_is_linear_in_servers_until_the_workers_card_binds() -> None:
    workers, rate = 4, 1e6
    network = Network(worker=Host(rate=rate), server=Host(rate=rate))
    throughput = {servers: 1 / step_s(network, workers, servers, slices=servers) for servers in (1, 2, 4, 8)}
    for servers, found in throughput.items():
        assert found / throughput[1] == pytest.approx(min(servers, workers), rel=0.02), f"{servers} servers"


def test_colocated_servers_move_what_bigdl_says() -> None:
    """Server i beside worker i: 2 * 4n * (P - 1) / P bytes out of each host, and as many in."""
    hosts, rate = 4, 1e6
    place = {f"{kind}:{i}": f"host {i}" for kind in ("worker", "server") for i in range(hosts)}
    network = Network(hosts={f"host {i}": Host(rate=rate) for i in range(hosts)}, place=place)
    expected = 2 * NBYTES * (hosts - 1) / hosts / rate
    assert step_s(network, hosts, hosts, slices=hosts) == pytest.approx(expected, rel=0.02)


def test_a_server_that_applies_slowly_is_a_queue() -> None:
    cost, workers, servers = 1e-6, 4, 2
    expected = NBYTES / servers * workers * cost
    assert step_s(Network(apply_s_per_byte=cost), workers, servers) == pytest.approx(expected, rel=0.02)
    free = Host(rate=1e9)  # one push waits for the other also where each is a commit of its own
    assert step_s(Network(free, free, apply_s_per_byte=cost), workers, servers, "async") == pytest.approx(
        expected, rel=0.02
    )


def test_a_worker_encodes_before_it_sends_and_a_server_takes_one_message_after_the_other() -> None:
    assert step_s(Network(encode_s_per_byte=1e-6), 2, 1) == pytest.approx(NBYTES * 1e-6, rel=0.02)
    busy = Network(server_message_s=0.1)  # each worker's one message of a step, one after the other
    assert step_s(busy, 8, 1) == pytest.approx(8 * 0.1, rel=0.02)
    slow = Network(worker_message_s=0.1)  # it sends one and takes one in
    assert step_s(slow, 1, 1) == pytest.approx(2 * 0.1, rel=0.02)


def test_delays_count_once_each_way() -> None:
    network = Network(worker=Host(delay_s=0.02), server=Host(delay_s=0.03))
    assert step_s(network, 2, 2) == pytest.approx(2 * 0.05, rel=0.02)


def test_the_same_seed_gives_the_same_bytes_and_only_virtual_time_has_a_network() -> None:
    network = Network(worker=Host(rate=1e5), server=Host(rate=3e5), apply_s_per_byte=1e-7)

    def train(client: ps.Client) -> float:
        client.register({"w": np.full(5000, 0.5, np.float32)})
        for _ in range(5):
            client.push({"w": client.pull()["w"] * (1 + client.rank)})
            client.tick()
        return client._worker.port.now()

    seen = set()
    for _ in range(2):
        with ps.LocalCluster(2, 3, consistency="async", seed=5, network=network) as cluster:
            seen.add((*cluster.run(train), cluster.checksum()))
    assert len(seen) == 1
    with pytest.raises(ConfigError, match="network: expected it with a seed"):
        ps.LocalCluster(network=network)
    with pytest.raises(ConfigError, match=r"network: expected a ps\.sim\.network\.Network or None, got 'fast'"):
        ps.LocalCluster(network="fast", seed=1)  # type: ignore[arg-type]
