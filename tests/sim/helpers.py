"""Runs a cluster in virtual time and holds every schedule to what all of them must keep.

`simulate(...)` starts the workers, runs to the end and checks what no model may break: scripts end without an error,
followers hold the bytes of their primaries, versions and clocks never go back, each push has one verdict, no buffer is
held for ever. Every message of a failed check names the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ps.config import RunConfig
from ps.server.ledger import Commit, Ledger, Record, Refused
from ps.server.runtime import Server
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.sim.scripts import Script
from ps.types import Array, Int64, PeerId, worker_peer
from ps.worker.client import Client

FAULTS = LinkFaults(drop=0.1, repeat=0.1, reorder=0.2)  # what data links do in most tests here
ROUGH = LinkFaults(drop=0.2, repeat=1.0, reorder=0.5, reorder_s=0.1)  # everything twice, a fifth lost
APPLY_S = 3e-3  # an apply takes up to this long, about as long as a message
MODELS = (
    "bsp",
    "ssp:staleness=0",
    "ssp:staleness=2",
    "async",
    "downpour:push_every=2,pull_every=3,local_lr=0.1",
    "quorum:n=2",
    "local:every=2,local_lr=0.1",
    "async_local:every=2,local_lr=0.1",
    "easgd:alpha=0.3,every=2,local_lr=0.1",
    "local:every=4,local_lr=0.1,fragments=2,overlap=1",
)

Train = Callable[[Client], Any]
Plan = Callable[[Simulator], object]


@dataclass
class Run:
    """A simulation that is over. Log: per shard all records in order."""

    sim: Simulator
    log: list[list[Record]] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.sim.seed

    @property
    def results(self) -> list[Any]:
        """What `train` returned, in rank order."""
        return [script.result for _, script in sorted(self.scripts.items())]

    @property
    def scripts(self) -> dict[int, Script]:
        """The last script of each rank."""
        return {int(to[7:]): script for to, script in self.sim.scripts.items() if to.startswith("worker:")}

    @property
    def servers(self) -> list[Server]:
        return [server for _, server in sorted(self.sim.servers.items())]

    def say(self, what: str) -> str:
        """The message of a failed check: what was wrong, and how to see it again."""
        c = self.sim.config
        return f"seed {self.seed}, {c.workers} workers, {c.servers} servers, {c.consistency}, {c.optimizer}: {what}"

    def commits(self, slice_id: int) -> list[Commit]:
        """All commits of one slice of the cluster, in order."""
        for shard, server in self.sim.servers.items():
            here = np.flatnonzero(server.shard.ledger.ids_S == slice_id)
            if len(here):
                records = self.log[shard]
                return [r for r in records if isinstance(r, Commit) and r.slice == int(here[0])]
        raise AssertionError(self.say(f"slice {slice_id} lives nowhere"))

    @property
    def all_commits(self) -> list[Commit]:
        return [record for log in self.log for record in log if isinstance(record, Commit)]

    @property
    def slices(self) -> int:
        return len(self.sim.controller.core.batches.keyspace.slices)

    def final(self) -> dict[str, Array]:
        """The servers' values by parameter name, in the master dtype."""
        return values_of(self.sim)

    def counted(self, name: str) -> int:
        """A counter of the servers, summed."""
        return sum(server.metrics.snapshot().total(name) for server in self.servers)


def values_of(sim: Simulator) -> dict[str, Array]:
    """The servers' current values by parameter name, in the master dtype."""
    keyspace = sim.controller.core.batches.keyspace
    flat = {p.name: np.zeros(p.size, p.master) for p in keyspace.parameters}
    for server in sim.servers.values():
        ids = server.shard.ledger.ids_S.tolist()
        for slice_id, buffer in zip(ids, server.values.current, strict=True):
            for piece in keyspace.slices[slice_id].pieces:
                part = buffer.array[piece.offset : piece.offset + piece.stop - piece.start]
                flat[keyspace.parameters[piece.parameter].name][piece.start : piece.stop] = part
    return {p.name: flat[p.name].reshape(p.shape) for p in keyspace.parameters}


def simulate(
    train: Train | Mapping[int, Train],
    *,
    seed: int,
    workers: int = 3,
    servers: int = 2,
    consistency: str = "bsp",
    optimizer: str = "sgd:lr=0.1",
    faults: LinkFaults = FAULTS,
    apply_s: float = APPLY_S,
    plan: Plan | None = None,
    fails: bool = False,
    until: Callable[[Simulator], bool] | None = None,
    **options: Any,
) -> Run:
    """Runs `train` (one for all, or one per rank) on every rank below `workers`, or those that the mapping names.

    optimizer: `easgd` knows only `add`, and has it.
    plan: called before the start, to schedule deaths and joins with `sim.at`. fails: scripts may end in an error.
    options: more fields of RunConfig.
    """
    optimizer = "add" if consistency.startswith("easgd") else optimizer
    known: dict[str, Any] = dict(timeout_s=60.0, resend_s=0.05)
    spelled = dict(servers=servers, workers=workers, consistency=consistency, optimizer=optimizer)
    config = RunConfig.check({**known, **spelled, **options})
    log = Log(seed, config)
    sim = Simulator(config, faults, seed=seed, apply_s=apply_s, followers=True, watch=log.see)
    run = Run(sim, log.records)
    trains = train if isinstance(train, Mapping) else dict.fromkeys(range(workers), train)
    try:
        for rank, body in trains.items():
            sim.run_worker(rank, body)
        if plan is not None:
            plan(sim)
        sim.run(None if until is None else lambda: until(sim))
        _check_ends(run, fails)
        check_shards(run, at_rest=not fails)
    finally:
        end_scripts(sim)
    return run


def end_scripts(sim: Simulator) -> None:
    """Ends the threads of scripts that still wait, so that a failed run leaves none behind."""
    for script in sim.scripts.values():
        script.kill()


def restart(sim: Simulator, rank: int, train: Train, at: float, after: float = 0.0) -> None:
    """Kills the worker at a virtual time (if it still runs) and starts it again `after` seconds later."""

    def body(script: Script) -> None:
        script.spend(at)
        sim.kill_worker(rank)
        script.spend(after + 1e-6)
        if sim.scripts[worker_peer(rank)].is_killed:
            sim.run_worker(rank, train)

    sim.spawn(PeerId(f"restart:{len(sim.scripts)}"), body)  # a script: the run is not over before


class Log:
    """Takes in the records of all shards, replays each into a ledger of its own and checks that nothing goes back."""

    def __init__(self, seed: int, config: RunConfig) -> None:
        self.seed = seed
        self.records: list[list[Record]] = [[] for _ in range(config.servers)]
        self.ledgers = [Ledger(config.workers) for _ in range(config.servers)]
        self.settled: set[tuple[int, int, int, int]] = set()  # (shard, slice, worker, push number)

    def see(self, shard: int, record: Record) -> None:
        """One record."""
        self.records[shard].append(record)
        ledger = self.ledgers[shard]
        version_S, clock_S = ledger.version_S.copy(), ledger.min_clock_S().copy()
        ledger.apply(record)
        self._no_lower(version_S, ledger.version_S, f"shard {shard}: versions after {record}")
        self._no_lower(clock_S, ledger.min_clock_S(), f"shard {shard}: min_clock after {record}")
        if isinstance(record, Commit):
            index = record.slice
            assert record.version == version_S[index] + 1, f"seed {self.seed}: shard {shard}: version gap: {record}"
            verdicts = [(push.worker, push.seq) for push in record.contributions] + list(record.late)
        elif isinstance(record, Refused):
            index, verdicts = record.slice, [(record.worker, record.seq)]
        else:
            return
        for worker, seq in verdicts:
            key = (shard, index, worker, seq)
            assert key not in self.settled, f"seed {self.seed}: shard {shard}: a second verdict: {record}"
            self.settled.add(key)

    def _no_lower(self, before: Int64, after: Int64, what: str) -> None:
        assert (after[: len(before)] >= before).all(), f"seed {self.seed}: {what} went back from {before} to {after}"


def check_shards(run: Run, at_rest: bool) -> None:
    """Followers equal their primaries, byte for byte, and nobody holds what nobody needs. at_rest: all have left."""
    for shard, server in run.sim.servers.items():
        follower = server.follower
        assert follower is not None
        ledger = server.shard.ledger
        assert server.values.contents() == follower.values.contents(), run.say(f"follower {shard}: other values")
        assert ledger.state() == follower.ledger.state(), run.say(f"follower {shard}: other numbers")
        assert not server._payloads and not server._outbox, run.say(f"server {shard}: payloads left")
        assert not (at_rest and server._frames), run.say(f"server {shard}: frames left: {list(server._frames)}")
        bases: dict[int, int] = {}
        for buffer in server.values.base.values():
            bases[id(buffer)] = bases.get(id(buffer), 0) + 1
        for index, buffer in enumerate(server.values.current):
            held = buffer.holders - 1 - bases.get(id(buffer), 0)
            held -= sum(kept is buffer for kept in server.values.kept[index].values())
            assert held == 0, run.say(f"server {shard}, slice {index}: {held} holders that are over")


def _check_ends(run: Run, fails: bool) -> None:
    for address, script in run.sim.scripts.items():
        if script.error is not None and not fails:
            raise AssertionError(run.say(f"{address}: {type(script.error).__name__}: {script.error}")) from script.error
        assert script.is_over, run.say(f"{address} waits for ever, at {run.sim.now:.3f} s")


def same_bytes(run: Run, got: Mapping[str, Array], expected: Mapping[str, Array], what: str) -> None:
    """Asserts equal names, dtypes, shapes and bytes, and says where they part."""
    assert sorted(got) == sorted(expected), run.say(f"{what}: names {sorted(got)}")
    for name, want in expected.items():
        have = got[name]
        kind = run.say(f"{what}: {name}: expected {want.dtype} {want.shape}, got {have.dtype} {have.shape}")
        assert (have.dtype, have.shape) == (want.dtype, want.shape), kind
        if have.tobytes() != want.tobytes():
            apart = np.flatnonzero(have.reshape(-1) != want.reshape(-1))
            worst = float(np.abs(have.astype(np.float64) - want.astype(np.float64)).max(initial=0.0))
            many = f"{len(apart)} of {have.size} elements differ, by up to {worst:g}, at {apart[:5]}"
            raise AssertionError(run.say(f"{what}: {name}: {many}"))


def record_key(record: Record) -> tuple[Any, ...]:
    """A record as something that compares by value."""
    values = (getattr(record, f.name) for f in fields(record))
    return (type(record).__name__, *(v.tobytes() if isinstance(v, np.ndarray) else v for v in values))


def relative(got: Array, expected: Array) -> float:
    """2-norm of the difference over that of what was expected."""
    a, b = got.astype(np.float64).reshape(-1), expected.astype(np.float64).reshape(-1)
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-300)
