"""SSP's promises, read off the values: at a read at clock c every update up to clock c - s - 1 is in, and all own ones.

Each worker's push of each clock moves an element of its own by one unit: what a pulled array holds says which updates
are in it, and that none is in it twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from ps.keyspace import Options
from ps.server.ledger import Commit
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.types import Array, Int64
from ps.worker.client import Client
from tests.sim.helpers import FAULTS, Run, simulate

CLOCKS = 8
NAMES = ("one", "two", "three")  # each a slice of its own: options differ
SCALES = {name: Options(lr_scale=2.0**-k) for k, name in enumerate(NAMES)}
UNITS = {  # optimizer -> what one push moves its element by, before lr_scale and 1 / live
    "add": 1.0,
    "sgd:lr=0.5": -0.5,
    "momentum:lr=0.5,decay=0.25": -0.5,  # later commits of the slice move it on, by less than a third more
}


@dataclass
class Read:
    """One pull: by whom, at which clock, what was known and what came."""

    rank: int
    clock: int
    at: float
    min_clock_S: Int64  # per slice, as the worker knows it
    version_S: Int64
    true_clock_S: Int64  # per slice, on the servers when the pull returned
    values: dict[str, Array]


@dataclass
class Recorder:
    """The script, and all reads and worker clocks in the order in which they happened."""

    workers: int
    pace: Callable[[int, int], float]  # rank, clock -> seconds of compute
    reads: list[Read] = field(default_factory=list)
    clock_W: list[int] = field(default_factory=list)
    lead: int = 0  # the largest distance of two workers' raw counters
    sim: Simulator | None = None

    def train(self, client: Client) -> int:
        if not self.clock_W:
            self.clock_W = [0] * self.workers
        shape = (self.workers, CLOCKS)
        client.register({name: np.zeros(shape, np.float32) for name in NAMES}, SCALES)
        for clock in range(CLOCKS):
            self.read(client)
            client.spend(self.pace(client.rank, clock))
            mark = np.zeros(shape, np.float32)
            mark[client.rank, clock] = 1
            client.push(dict.fromkeys(NAMES, mark))
            client.tick()
            self.clock_W[client.rank] += 1
            self.lead = max(self.lead, max(self.clock_W) - min(self.clock_W))
        client.barrier(timeout=1e6)  # who leaves earlier raises the rate of the others
        return client.clock

    def read(self, client: Client) -> None:
        values = client.pull()
        session, sim = client._worker.session, self.sim
        assert sim is not None
        true_clock_S = np.zeros_like(session.min_clock_S)
        for server in sim.servers.values():
            true_clock_S[server.shard.ledger.ids_S] = server.shard.ledger.min_clock_S()
        known = session.min_clock_S.copy()
        self.reads.append(Read(client.rank, client.clock, sim.now, known, session.base_S.copy(), true_clock_S, values))

    def bind(self, sim: Simulator) -> None:
        self.sim = sim


def run_ssp(
    recorder: Recorder, seed: int, staleness: int, optimizer: str, faults: LinkFaults = FAULTS, servers: int = 2
) -> Run:
    return simulate(
        recorder.train, seed=seed, workers=recorder.workers, servers=servers, faults=faults, plan=recorder.bind,
        consistency=f"ssp:staleness={staleness}", optimizer=optimizer,
    )  # fmt: skip


def present(values: Array, unit: float) -> Array:
    """Which updates are in a pulled array, by (worker, clock); fails for one that is in it twice."""
    count = values.astype(np.float64) / unit
    assert ((count == 0) | ((count > 0.99) & (count < 1.34))).all(), f"expected each update once, got {count}"
    return np.asarray(count > 0.5)


def random_pace(seed: int, workers: int) -> Callable[[int, int], float]:
    """Workers of different speed, each with transient stalls."""
    rng = np.random.default_rng(seed)
    base = rng.choice([0.001, 0.01, 0.03], workers)
    stall = np.where(rng.random((workers, CLOCKS)) < 0.15, 0.3, 0.0)
    return lambda rank, clock: float(base[rank] + stall[rank, clock])


@pytest.mark.parametrize("optimizer", UNITS)
@pytest.mark.parametrize("seed", range(12))
def test_every_read_holds_what_ssp_promises(seed: int, optimizer: str) -> None:
    rng = np.random.default_rng(seed)
    staleness, workers = int(rng.integers(0, 4)), int(rng.choice([2, 3, 4]))
    recorder = Recorder(workers, random_pace(seed, workers))
    run = run_ssp(recorder, seed, staleness, optimizer, servers=1 + seed % 3)
    assert run.results == [CLOCKS] * workers, run.say(f"clocks at the end: {run.results}")
    assert recorder.lead <= staleness + 1, run.say(f"raw counters {recorder.lead} apart")
    logged = [updates_by_version(run, slice_id, workers) for slice_id in range(run.slices)]
    for read in recorder.reads:
        who = run.say(f"worker {read.rank} at clock {read.clock}")
        assert (read.clock - read.min_clock_S <= staleness).all(), f"{who}: min_clock {read.min_clock_S}"
        assert (read.true_clock_S >= read.min_clock_S).all(), f"{who}: knows more than there is"
        for slice_id, name in enumerate(NAMES):
            rate = 1.0 if optimizer == "add" else SCALES[name].lr_scale / workers
            inside = present(read.values[name], UNITS[optimizer] * rate)
            must = max(read.clock - staleness, 0)
            assert inside[:, :must].all(), f"{who}: {name} lacks updates before clock {must}:\n{inside.astype(int)}"
            assert inside[read.rank, : read.clock].all(), f"{who}: {name} lacks own updates:\n{inside.astype(int)}"
            assert not inside[:, read.clock + staleness + 1 :].any(), f"{who}: {name} holds updates too new"
            from_log = logged[slice_id][int(read.version_S[slice_id])].copy()
            from_log[read.rank, : read.clock] = True  # a cached copy carries the own later writes
            assert (inside == from_log).all(), f"{who}: {name} is not version {read.version_S[slice_id]} of the log"


def updates_by_version(run: Run, slice_id: int, workers: int) -> list[Array]:
    """Which (worker, clock) are in each version of a slice, from the log. One push per clock: number = clock + 1."""
    inside = np.zeros((workers, CLOCKS), np.bool_)
    versions = [inside.copy()]
    for commit in run.commits(slice_id):
        for push in commit.contributions:
            inside[push.worker, push.seq - 1] = True
        versions.append(inside.copy())
    return versions


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_raw_counters_reach_the_bound_plus_one_and_no_more(staleness: int) -> None:
    """A worker that ticked and now waits is one further than any reader may be."""
    recorder = Recorder(3, lambda rank, clock: 0.5 if rank == 2 else 0.001)
    run = run_ssp(recorder, 1, staleness, "sgd:lr=0.5")
    assert recorder.lead == staleness + 1, run.say(f"raw counters at most {recorder.lead} apart")
    behind = max(read.clock - int(read.true_clock_S.min()) for read in recorder.reads)
    assert behind == staleness, run.say(f"a reader at most {behind} before the slowest")


@pytest.mark.parametrize("staleness", [0, 1, 5])
def test_the_slowest_worker_never_waits(staleness: int) -> None:
    recorder = Recorder(3, lambda rank, clock: 0.5 if rank == 0 else 0.001)
    run = run_ssp(recorder, 2, staleness, "momentum:lr=0.5,decay=0.25", LinkFaults(jitter_s=0))
    times = [read.at for read in recorder.reads if read.rank == 0]
    for clock, (before, after) in enumerate(itertools.pairwise(times)):
        apart = after - before
        assert apart < 0.5 + 0.01, run.say(f"clock {clock} of the slowest took {apart:.3f} s")


@pytest.mark.parametrize("staleness", [CLOCKS, 2**31, 2**62, 2**63 - 1, 2**70])
def test_a_huge_bound_never_blocks(staleness: int) -> None:
    recorder = Recorder(3, lambda rank, clock: 50 if rank == 1 and clock == 0 else 0.001)
    run = run_ssp(recorder, 3, staleness, "sgd:lr=0.5")
    for rank in (0, 2):
        last = max(read.at for read in recorder.reads if read.rank == rank)
        assert last < 10, run.say(f"worker {rank} read for the last time at {last:.1f} s")


@pytest.mark.parametrize("staleness", [2, 3, 5])
def test_the_cache_saves_pulls_where_the_worker_knows_its_own_update(staleness: int) -> None:
    """Plain sgd: own writes are laid over the cached copy. Momentum: slices written since are pulled."""
    pulls = {}
    for optimizer in ("sgd:lr=0.5", "momentum:lr=0.5,decay=0.25"):
        recorder = Recorder(2, lambda rank, clock: 0.02)
        run = run_ssp(recorder, 4, staleness, optimizer, LinkFaults(jitter_s=0), servers=1)
        pulls[optimizer] = run.counted("pull_messages")
    with_cache, without = pulls.values()
    assert without == 2 * CLOCKS, f"seed 4: momentum: {pulls}"
    # A copy read at clock c knows min_clock >= c - 1 here, and serves the reads up to that + staleness.
    assert with_cache <= 2 * -(-CLOCKS // staleness), f"seed 4: sgd: {pulls}"


@pytest.mark.parametrize("seed", range(4))
def test_what_was_not_written_since_the_last_pull_is_served_from_the_cache(seed: int) -> None:
    """Under momentum too: only written or too old slices travel."""

    def train(client: Client) -> float:
        client.register({name: np.zeros(3, np.float32) for name in NAMES}, SCALES)
        for _ in range(CLOCKS):
            client.pull()
            client.push({"two": np.ones(3, np.float32)})
            client.tick()
        return client.metrics.snapshot().total("pull_bytes")

    run = simulate(
        train, seed=seed, workers=1, servers=1, consistency="ssp:staleness=100", optimizer="momentum:lr=0.5",
        faults=LinkFaults(),
    )  # fmt: skip
    assert run.results == [3 * 12 + (CLOCKS - 1) * 12], run.say(f"pulled bytes {run.results}")


@pytest.mark.parametrize("seed", range(3))
def test_pushes_commit_one_by_one_at_the_rate_over_the_live_workers(seed: int) -> None:
    recorder = Recorder(4, random_pace(seed, 4))
    run = run_ssp(recorder, seed, 2, "sgd:lr=0.5")
    commits: list[Commit] = run.all_commits
    assert len(commits) == 4 * CLOCKS * len(NAMES), run.say(f"{len(commits)} commits")
    assert all(len(commit.contributions) == 1 for commit in commits), run.say("a commit of several pushes")
    rates = {commit.lr for commit in commits}
    assert rates == {0.125}, run.say(f"rates {rates}")
