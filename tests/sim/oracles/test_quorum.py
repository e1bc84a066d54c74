"""Quorum: the first n workers of a round make its commit, all on its version; the late are refused and lose nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from ps.keyspace import Options
from ps.server.ledger import Commit, Joined, Left, Record
from ps.sim.links import LinkFaults
from ps.types import Array
from ps.worker.client import Client
from ps.worker.verdicts import Applied, PushFuture, Refused, Verdict
from tests.sim.helpers import Run, simulate

NAMES = ("one", "two", "three")  # each a slice of its own: options differ
SCALES = {name: Options(lr_scale=2.0**-k) for k, name in enumerate(NAMES)}
CLOCKS = 10


@dataclass
class Recorder:
    """The script: integer gradients, one push per clock. Keeps what was pushed on which version and its verdict."""

    seed: int
    workers: int
    pushed: dict[str, Array] = field(default_factory=dict)  # sum over all workers and clocks
    left_over: dict[str, Array] = field(default_factory=dict)  # sum of the residuals at the end
    base: dict[tuple[int, str, int], int] = field(default_factory=dict)  # (worker, name, push number) -> version
    verdicts: dict[tuple[int, str, int], Verdict] = field(default_factory=dict)
    shape: tuple[int, ...] = (4, 5)

    def gradient(self, rank: int, clock: int, name: str) -> Array:
        rng = np.random.default_rng([self.seed, rank, clock, NAMES.index(name)])
        return rng.integers(-100, 100, self.shape).astype(np.float32)

    def train(self, client: Client) -> int:
        pace = np.random.default_rng([self.seed, client.rank])
        client.register({name: np.zeros(self.shape, np.float32) for name in NAMES}, SCALES)
        for name in NAMES:
            self.pushed.setdefault(name, np.zeros(self.shape, np.float32))
            self.left_over.setdefault(name, np.zeros(self.shape, np.float32))
        futures = []
        for clock in range(CLOCKS):
            client.pull()
            client.spend(float(pace.exponential(0.02)))
            grads = {name: self.gradient(client.rank, clock, name) for name in NAMES}
            session = client._worker.session
            for slice_id, name in enumerate(NAMES):
                self.pushed[name] += grads[name]
                self.base[client.rank, name, clock + 1] = int(session.base_S[slice_id])
            futures.append(client.push(grads))
            client.tick()
        return self.settle(client, futures)

    def settle(self, client: Client, futures: list[PushFuture]) -> int:
        """Goes through empty clocks until every push is applied or refused, then notes what came back."""
        while not all(future.is_done for future in futures):
            client.pull()
            client.tick()
            client.spend(0.01)
        refused = 0
        for clock, future in enumerate(futures):
            for described, verdict in future.verdicts().items():
                self.verdicts[client.rank, described.strip("'"), clock + 1] = verdict
                refused += isinstance(verdict, Refused)
        for slice_id, memory in client._worker.arrays.encoder.memory.items():
            assert memory.residual_N is not None
            self.left_over[NAMES[slice_id]] += memory.residual_N.reshape(self.shape)
        return refused


def quorum_run(recorder: Recorder, n: int, optimizer: str = "add", error_feedback: bool = True) -> Run:
    return simulate(
        recorder.train, seed=recorder.seed, workers=recorder.workers, servers=1 + recorder.seed % 3,
        consistency=f"quorum:n={n}", optimizer=optimizer,
        push_compression="none:error_feedback=true" if error_feedback else "none",
    )  # fmt: skip


def commits_and_live(log: list[Record], workers: int) -> list[tuple[Commit, int]]:
    """Every commit with the number of workers that were live when it came into the log."""
    live, found = set(range(workers)), []
    for record in log:
        match record:
            case Joined():
                live.add(record.worker)
            case Left():
                live.discard(record.worker)
            case Commit():
                found.append((record, len(live)))
    return found


@pytest.mark.parametrize(("workers", "n"), [(3, 2), (4, 3), (5, 2), (6, 5), (4, 4), (2, 1), (3, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_every_commit_has_n_workers_all_on_its_version(seed: int, workers: int, n: int) -> None:
    recorder = Recorder(seed, workers)
    run = quorum_run(recorder, n)
    for shard, log in enumerate(run.log):
        ids = run.sim.servers[shard].shard.ledger.ids_S
        for commit, live in commits_and_live(log, workers):
            name = NAMES[int(ids[commit.slice])]
            who = run.say(f"{name}, version {commit.version}, {live} live")
            delivered = set(commit.finished)
            assert len(delivered) >= min(n, live), f"{who}: delivered by {delivered}"
            if live == workers:
                assert len(delivered) == min(n, live), f"{who}: delivered by {delivered}"
            assert {push.worker for push in commit.contributions} <= delivered, f"{who}: {commit}"
            assert commit.staleness == 0, f"{who}: staleness {commit.staleness}"
            for push in commit.contributions:
                base = recorder.base[push.worker, name, push.seq]
                assert base == commit.version - 1, f"{who}: push {push.seq} of {push.worker} was made on {base}"


@pytest.mark.parametrize("seed", range(6))
def test_while_all_push_a_commit_has_exactly_n_distinct_contributors(seed: int) -> None:
    recorder = Recorder(seed, 5)
    run = quorum_run(recorder, 3)
    for slice_id in range(run.slices):
        commits = [c for c in run.commits(slice_id) if all(push.seq < CLOCKS for push in c.contributions)]
        counts = [len({push.worker for push in commit.contributions}) for commit in commits[: CLOCKS // 2]]
        assert counts == [3] * len(counts), run.say(f"slice {slice_id}: contributors {counts}")
    assert sum(run.results) > 0, run.say("expected somebody to be late")


@pytest.mark.parametrize("optimizer", ["add", "sgd:lr=0.5"])
@pytest.mark.parametrize("seed", range(6))
def test_verdicts_say_what_the_log_says(seed: int, optimizer: str) -> None:
    recorder = Recorder(seed, 4)
    run = quorum_run(recorder, 2, optimizer)
    logged: dict[tuple[int, str, int], int] = {}
    for slice_id, name in enumerate(NAMES):
        for commit in run.commits(slice_id):
            logged.update({(push.worker, name, push.seq): commit.version for push in commit.contributions})
    assert len(recorder.verdicts) == 4 * CLOCKS * len(NAMES), run.say("a push without verdict")
    for key, verdict in recorder.verdicts.items():
        who = run.say(f"push {key}: {verdict}")
        match verdict:
            case Applied(version):
                assert logged[key] == version == recorder.base[key] + 1, who
            case Refused(reason):
                assert key not in logged, who
                assert reason.startswith("late: version "), who
            case _:
                raise AssertionError(who)
    refused = sum(isinstance(verdict, Refused) for verdict in recorder.verdicts.values())
    assert refused == sum(run.results) > 0, run.say(f"{refused} refused")


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_refused_comes_back_and_nothing_is_lost(seed: int, workers: int) -> None:
    """Conservation, element by element and exact: gradients are integers, `add` sums them."""
    recorder = Recorder(seed, workers)
    run = quorum_run(recorder, max(workers - 2, 1))
    for name, value in run.final().items():
        apart = value + recorder.left_over[name] - recorder.pushed[name]
        assert not apart.any(), run.say(f"{name}: applied + residual - pushed = {apart.reshape(-1)[:6]}")
    assert sum(run.results) > 0, run.say("expected somebody to be late")


@pytest.mark.parametrize("seed", range(4))
def test_without_error_feedback_exactly_the_applied_pushes_are_in(seed: int) -> None:
    recorder = Recorder(seed, 4)
    run = quorum_run(recorder, 2, error_feedback=False)
    expected = {name: np.zeros(recorder.shape, np.float32) for name in NAMES}
    for (rank, name, number), verdict in recorder.verdicts.items():
        if isinstance(verdict, Applied):
            expected[name] += recorder.gradient(rank, number - 1, name)
    for name, value in run.final().items():
        assert (value == expected[name]).all(), run.say(f"{name}: {value - expected[name]}")
    assert all(not left.any() for left in recorder.left_over.values()), run.say("a residual without error feedback")


@pytest.mark.parametrize("seed", range(4))
def test_a_late_worker_jumps_to_the_newest_version(seed: int) -> None:
    """One worker three times as slow: its reads move on by more than one version, never back."""

    def train(client: Client) -> list[int]:
        client.register({"w": np.zeros(3, np.float32)})
        seen = []
        for _ in range(CLOCKS):
            client.pull()
            seen.append(int(client._worker.session.base_S[0]))
            client.spend(0.3 if client.rank == 2 else 0.1)
            client.push({"w": np.ones(3, np.float32)})
            client.tick()
        return seen

    run = simulate(train, seed=seed, consistency="quorum:n=2", faults=LinkFaults())  # a lost message makes others slow
    steps = np.diff(run.results[2])
    assert (steps >= 0).all() and steps.max() > 1, run.say(f"the slow worker read versions {run.results[2]}")
    assert (np.diff(run.results[0]) == 1).all(), run.say(f"a fast worker read versions {run.results[0]}")
