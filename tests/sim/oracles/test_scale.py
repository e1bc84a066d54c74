"""The simulation without payload against the one with it, against itself, and against the laws of stragglers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ps
from ps import wire
from ps.config import RunConfig
from ps.errors import ConfigError
from ps.messages import Ask, Leave, LeaveDone, Pull, Push, Tick, Ticked, Values, Verdicts
from ps.server.ledger import Record
from ps.sim.loop import JOB
from ps.sim.network import Host, Network
from ps.sim.scale import Cluster, Outcome, Profile, random_of, simulate
from ps.types import Clock, WorkerId
from tests.sim.helpers import record_key

PARAMETERS = {"a": (700, 40), "b": (1000,), "c": (300, 7, 11), "d": (3,), "large": (1100, 1000), "e": (64, 65)}
PARAMETERS |= {f"m{i}": (600, 1000) for i in range(4)}  # of which two travel in one part, and one in the next
BUSY = Network(
    worker=Host(rate=3e6, delay_s=1e-3),
    server=Host(rate=5e6, delay_s=2e-3),
    hosts={"both": Host(rate=4e6, loopback=8e6)},
    place={"worker:1": "both", "server:0": "both"},
    frame_bytes=60,
    encode_s_per_byte=2e-8,
    apply_s_per_byte=3e-8,
    worker_message_s=3e-4,
    decode_s_per_byte=2e-9,
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


def config_of(consistency: str, workers: int, servers: int, optimizer: str = "sgd:lr=0.1", **more: Any) -> RunConfig:
    spelled = dict(workers=workers, servers=servers, consistency=consistency, seed=SEED, **more)
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


@pytest.mark.parametrize(
    ("consistency", "optimizer", "slice_elements"),
    [
        *((model, "sgd:lr=0.1", 1 << 20) for model in MODELS),
        ("ssp:staleness=1", "momentum:lr=0.1,decay=0.9", 1 << 20),
        ("bsp", "sgd:lr=0.1", 1 << 16),
    ],
)
def test_it_takes_the_same_times_as_with_payload(consistency: str, optimizer: str, slice_elements: int) -> None:
    config = config_of(consistency, workers=4, servers=2, optimizer=optimizer, slice_elements=slice_elements)
    expected_CW = with_payload(config, BUSY)
    outcome = simulate(config, Profile(PARAMETERS, exponential), BUSY, CLOCKS, SEED)
    assert outcome.end_CW == pytest.approx(expected_CW, abs=1e-9)
    assert outcome.clock_s > 0.1


@pytest.mark.parametrize("consistency", ["bsp", "ssp:staleness=3", "async", "downpour:push_every=2,pull_every=3"])
def test_shares_stand_for_a_codec(consistency: str) -> None:
    """But for the first values, which travel as they are, and some bytes of headers. Who pushes with a codec does not
    know what its pushes make of the values: it pulls them."""
    config = config_of(consistency, workers=4, servers=2, compression="int8:min_elements=0")
    slices = Cluster(config, Profile(PARAMETERS), BUSY, 1, 0, None).keyspace.slices
    frames, nbytes = sum(config.codecs().push_bytes(one) for one in slices), sum(one.nbytes for one in slices)
    profile = Profile(PARAMETERS, exponential, frames / nbytes, frames / nbytes)
    end_CW = with_payload(config, BUSY)
    expected_s = (end_CW[-1].max() - end_CW[0].max()) / CLOCKS
    assert simulate(config, profile, BUSY, CLOCKS, SEED).clock_s == pytest.approx(expected_s, rel=0.02)


@pytest.mark.parametrize("number", [0, 127, 128, 255, 256, 65535, 65536])
def test_headers_are_as_long_as_on_the_wire(number: int) -> None:
    """Sizes are kept by what they depend on; both worker and clock are numbers of all widths."""
    cluster = Cluster(config_of("bsp", workers=1, servers=1), Profile({"w": (1024,)}), Network(), 1, 0, None)
    for other, count in ((0, 1), (127, 1), (128, 40), (255, 1), (256, 2), (65535, 1), (65536, 1)):
        rank, clock, some_E = WorkerId(number), Clock(other), np.arange(count)
        codes = np.ones(count, np.uint8)
        for bodies in (
            [Tick(rank, 1, clock, some_E, some_E, some_E), Push(rank, 1, clock, 1.0, some_E, some_E, some_E)],
            [Pull(rank, 1, 1 << 32, 1 << 32, clock, False, some_E, some_E), Ask(rank, 1, some_E, some_E)],
            [Pull(rank, 1, 1 << 32, 1 << 32, clock, False, some_E, some_E, some_E), Leave(rank, 1)],
            [Verdicts(1, some_E, some_E, codes, some_E), Ticked(1, clock, True), LeaveDone(1)],
            [Values(1 << 32, some_E, some_E, some_E, 0.1, 1.0)],
        ):
            assert cluster._header_bytes(bodies) == len(wire.encode(JOB, *bodies)), bodies


# ---- alone ----------------------------------------------------------------------------------------------------------

SMALL = {"w": (1024,)}  # one slice


def run(consistency: str, workers: int, clocks: int, compute: Callable[[int, Random], float]) -> Outcome:
    """One slice on one server, and nothing but computing takes time."""
    return simulate(config_of(consistency, workers, servers=1), Profile(SMALL, compute), Network(), clocks, SEED)


def harmonic(count: int) -> float:
    return sum(1 / k for k in range(1, count + 1))


def log_of(seed: int) -> str:
    """A digest of all records of all shards, in order."""
    digest = hashlib.sha256()

    def watch(shard: int, record: Record) -> None:
        digest.update(repr((shard, record_key(record))).encode())

    config = config_of("ssp:staleness=2", workers=5, servers=2)
    simulate(config, Profile(PARAMETERS, exponential), BUSY, CLOCKS, seed, watch)
    return digest.hexdigest()


def test_the_same_seed_gives_the_same_log() -> None:
    assert log_of(1) == log_of(1) != log_of(2)


def test_bsp_waits_for_the_slowest_of_all() -> None:
    """E max of P unit exponentials = H_P (algorithms.md 8.7)."""
    workers, clocks = 8, 600
    outcome = run("bsp", workers, clocks, exponential)
    randoms = [random_of(SEED, rank) for rank in range(workers)]
    slowest = [max(random.expovariate(1.0) for random in randoms) for _ in range(clocks)]
    assert outcome.clock_s == pytest.approx(np.mean(slowest), rel=1e-9)
    assert outcome.clock_s == pytest.approx(harmonic(workers), rel=0.02)


def test_a_quorum_waits_for_the_first_n_of_all() -> None:
    """The first commit, for which all begin together: H_N - H_(N-n)."""
    workers, n, seeds = 12, 9, range(1000, 1300)
    config, profile = config_of(f"quorum:n={n}", workers, servers=1), Profile(SMALL, exponential)
    first = [simulate(config, profile, Network(), 1, seed).end_CW[1].min() for seed in seeds]
    drawn = [sorted(random_of(seed, rank).expovariate(1.0) for rank in range(workers)) for seed in seeds]
    assert first == pytest.approx([one[n - 1] for one in drawn], rel=1e-9)
    assert np.mean(first) == pytest.approx(harmonic(workers) - harmonic(workers - n), rel=0.02)


def backup_workers(workers: int, n: int, commits: int) -> list[float]:
    """Oracle: times of the commits where who comes too late ends its step all the same."""
    randoms = [random_of(SEED, rank) for rank in range(workers)]
    begun = dict.fromkeys(range(workers), 0)  # worker -> version that it computes on
    finish = {rank: randoms[rank].expovariate(1.0) for rank in begun}
    times: list[float] = []
    waiting: list[int] = []
    while len(times) < commits:
        rank = min(finish, key=lambda r: finish[r])
        now, late = finish.pop(rank), begun[rank] < len(times)
        waiting += [] if late else [rank]
        go_on = [rank] if late else []
        if len(waiting) == n:
            times.append(now)
            go_on, waiting = waiting, []
        for one in go_on:
            begun[one], finish[one] = len(times), now + randoms[one].expovariate(1.0)
    return times


def test_who_is_late_for_a_quorum_has_finished_its_step_all_the_same() -> None:
    """In the long run a quorum is slower than H_N - H_(N-n), for which late workers would have to give up at once."""
    workers, n, clocks = 6, 4, 60
    outcome = run(f"quorum:n={n}", workers, clocks, exponential)
    times = backup_workers(workers, n, clocks // 2)
    got = sorted({round(float(time), 9) for time in outcome.end_CW[1:].ravel()})
    assert {round(time, 9) for time in times} <= set(got)
    assert outcome.refused > 0
    assert times[-1] / len(times) > 1.05 * (harmonic(workers) - harmonic(workers - n))


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_ssp_goes_at_the_pace_of_the_slowest_for_every_bound(staleness: int) -> None:
    """Long-run rate P / q with one worker of rate 1 / q: only a head start is won."""
    slow, clocks = 5.0, 200
    outcome = run(f"ssp:staleness={staleness}", 4, clocks, lambda rank, _: slow if rank == 2 else 1.0)
    assert outcome.clock_s == pytest.approx(slow, rel=0.02)
    fast_s = outcome.end_CW[-1, 0]
    assert fast_s == pytest.approx((clocks - staleness) * slow, rel=0.02)
    waits = outcome.waited_s
    assert sum(waits[rank, 2] for rank in (0, 1, 3)) > 0.98 * sum(waits.values()) > 3 * 0.9 * clocks * (slow - 1)


def test_memoryless_asynchronous_workers_have_geometric_staleness() -> None:
    workers = 5
    outcome = run("async", workers, 1500, exponential)
    total = sum(outcome.staleness.values())
    assert total == workers * 1500
    for commits in range(10):
        share = outcome.staleness[commits] / total
        assert share == pytest.approx((1 / workers) * (1 - 1 / workers) ** commits, abs=0.01)


def test_a_dense_step_takes_what_the_busiest_card_takes_each_way() -> None:
    workers, servers, nbytes = 40, 4, 4 * 256 * 1024 * 4
    parameters = {f"w{i}": (1024, 256) for i in range(servers)}
    for rates in ((1e8, 1e9), (1e9, 5e8)):
        network = Network(worker=Host(rate=rates[0]), server=Host(rate=rates[1]))
        outcome = simulate(config_of("bsp", workers, servers), Profile(parameters), network, 3)
        bound = max(nbytes / rates[0], nbytes * workers / (servers * rates[1]))
        assert outcome.clock_s == pytest.approx(2 * bound, rel=0.02)
        halves = Profile(parameters, push_share=0.5, pull_share=0.25)
        thin = simulate(config_of("bsp", workers, servers), halves, network, 3)
        assert thin.clock_s == pytest.approx(0.75 * bound, rel=0.02)
        assert outcome.bytes == pytest.approx(workers * nbytes * (3 + 4), rel=0.02)


def test_what_makes_no_sense_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"profile: push_share: expected a finite number > 0, got 0\.0"):
        Profile(SMALL, push_share=0.0)
    with pytest.raises(ConfigError, match="clocks: expected at least 1, got 0"):
        run("bsp", 1, 0, exponential)
    with pytest.raises(ConfigError, match=r"compute: expected finite seconds >= 0 for worker 1, got -1\.0"):
        run("bsp", 2, 1, lambda rank, random: -1.0 if rank else 1.0)
    with pytest.raises(ConfigError, match="consistency: expected fragments=1 and overlap=0 where values are left out"):
        run("local:every=4,fragments=2,local_lr=0.1", 2, 1, exponential)
