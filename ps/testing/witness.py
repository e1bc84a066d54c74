"""Sees all that passes in a simulated cluster, computes it once more in plain NumPy, and says which promise is broken.

The witness follows the log of every shard and the session of every worker while they run, one event after the other,
so at each moment it knows what is true. It trusts neither ledger nor gate: its numbers come from the records, from what
the scripts pushed and from what reached them. One parameter is one slice here. Checks, by the name that failures carry:

exactly once  each push number of a (worker, slice) has one verdict in the log, without gaps, and the push was made
verdicts      what a worker was told is what the log says; nothing applied stays unacknowledged but by the dead
values        every value read, and the last one, equals the replay of the log up to its version, bit for bit
frames        what travels is what the script pushed (accumulated, or as a delta), what was refused included
clocks        a clock is closed only when all pushes of it have a verdict
versions      versions grow by one, minima never go back, rounds hold the pushes of their clock (or version)
reads         the model's promise, own writes, nobody's lost, and no version older than the one read before
follower      the bytes and the ledger of the primary
leaks         no frame, message or buffer is held once all is over
liveness      scripts end, in time and without an error
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ps.compression.choice import RAW, Frame
from ps.config import RunConfig
from ps.consistency import Consistency, Gather
from ps.consistency.bsp import BulkSynchronous
from ps.consistency.local import LocalSteps
from ps.consistency.ssp import StaleSynchronous
from ps.keyspace import Keyspace, Options, Parameter
from ps.messages import Code
from ps.optim.base import Step
from ps.optim.sgd import Sgd
from ps.server.ledger import Added, Commit, Contribution, Finished, Initialised, Joined, Left, Record, Refused
from ps.testing.views import Views
from ps.types import Array

Batch = Mapping[str, tuple[Array, Options]]  # registered together: initial values and options by name


class Broken(NamedTuple):
    """A promise that did not hold."""

    check: str
    text: str


@dataclass(slots=True)
class PushSeen:
    """A push on one slice as its worker sent it, and what the worker was told of it."""

    worker: int
    incarnation: int
    slice: int
    seq: int
    clock: int
    base: int
    weight: float
    frame: Array  # decoded
    codec: int = RAW
    verdict: tuple[Code, int] | None = None

    def __str__(self) -> str:
        return f"push {self.seq} of worker {self.worker} (incarnation {self.incarnation}, clock {self.clock})"


@dataclass
class ShardSeen:
    """One shard as its log tells it, by slice id."""

    ids: list[int] = field(default_factory=list)
    version: dict[int, int] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    incarnation: dict[int, int] = field(default_factory=dict)
    clock: dict[tuple[int, int], int] = field(default_factory=dict)  # (worker, slice)
    floor: dict[int, int] = field(default_factory=dict)  # least clock that was said, by slice

    def min_clock(self, slice_id: int) -> int:
        """The least clock that all live workers have finished; with nobody live the largest of all."""
        if self.live:
            return min(self.clock.get((worker, slice_id), 0) for worker in self.live)
        return max((clock for (_, s), clock in self.clock.items() if s == slice_id), default=0)


class Witness:
    """Takes in records, pushes, verdicts and reads; `broken` lists what does not fit together."""

    def __init__(self, config: RunConfig, batches: Sequence[Batch]) -> None:
        self.model, self.rule = config.model(), config.rule()
        decision = self.model.commit(config.workers)
        self.gather = decision if isinstance(decision, Gather) else None
        self.by_version = self.gather is not None and self.gather.by == "version"
        self.codecs = config.codecs()
        self.waits = config.on_worker_loss == "wait"
        self.keyspace = Keyspace()
        self.initial: list[Array] = []
        self.first = len(batches[0])  # slices that are there from the start
        for batch in batches:
            self.keyspace.extend([Parameter.of(name, values, options) for name, (values, options) in batch.items()])
            self.initial += [values.reshape(-1) for values, _ in batch.values()]
        self.names = [f"slice {i} ({self.keyspace.describe(i)})" for i in range(len(self.keyspace.slices))]
        assert len(self.keyspace.slices) == len(self.initial), "give each parameter options of its own: one slice each"
        self.shards = [ShardSeen(live=set(range(config.workers))) for _ in range(config.servers)]
        self.shard_of: dict[int, ShardSeen] = {}
        self.history: dict[int, dict[int, Array]] = {}  # slice -> version -> values
        self.state: dict[int, list[Array]] = {}  # of the optimizer, by slice
        self.views = Views(self.codecs, self.keyspace, self.gather is not None, self.history)
        self.pushes: dict[tuple[int, int], dict[int, PushSeen]] = {}  # (worker, slice) -> number -> its last sender's
        self.settled: dict[tuple[int, int], dict[int, tuple[Code, int]]] = {}  # the log's verdicts
        self.ticks: dict[tuple[int, int, int], int] = {}  # (worker, slice, base) -> first clock finished on it
        self.broken: list[Broken] = []
        self.counts = {"pushes": 0, "commits": 0, "late": 0, "reads": 0}

    def expect(self, holds: bool, check: str, *text: Any) -> None:
        """Notes a broken promise; the run goes on. text: put into words only then, which for arrays takes long."""
        if not holds:
            self.broken.append(Broken(check, " ".join(map(str, text))))

    def name(self, slice_id: int) -> str:
        return self.names[slice_id]

    # ---- the log ----------------------------------------------------------------------------------------------------

    def on_record(self, shard: int, record: Record) -> None:
        """The next record of a shard."""
        seen = self.shards[shard]
        touched = seen.ids
        match record:
            case Commit():
                touched = [seen.ids[record.slice]]
                self._commit(seen, touched[0], record)
            case Refused(worker, index, seq, version):
                touched = []
                self._settle(worker, seen.ids[index], seq, (Code.LATE, version))
            case Finished(worker, slices, clock):
                touched = [seen.ids[int(index)] for index in slices]
                for slice_id in touched:
                    self._finish(seen, worker, slice_id, clock, clock)
            case Joined(worker, incarnation, clock_S):
                known = seen.incarnation.get(worker, 0)
                self.expect(incarnation > known, "versions", f"worker {worker} joined as {incarnation} after {known}")
                seen.live.add(worker)
                seen.incarnation[worker] = incarnation
                seen.clock.update({(worker, s): int(c) for s, c in zip(seen.ids, clock_S, strict=True)})
            case Left(worker):
                seen.live.discard(worker)
            case Added():
                self._add(seen, record)
            case Initialised(slices):
                for slice_id in (seen.ids[int(index)] for index in slices):
                    self.expect(slice_id not in self.history, "values", self.name(slice_id), "was initialised twice")
                    self.history[slice_id] = {seen.version[slice_id]: self.initial[slice_id].copy()}
                    self.views.start(slice_id, seen.version[slice_id])
        for slice_id in touched:
            least = seen.min_clock(slice_id)
            before = seen.floor.get(slice_id, 0)
            where = self.name(slice_id)
            self.expect(least >= before, "versions", where, "min clock", before, "became", least, record)
            seen.floor[slice_id] = least

    def _add(self, seen: ShardSeen, added: Added) -> None:
        for place, slice_id in enumerate(added.ids.tolist()):
            self.shard_of[slice_id] = seen
            seen.ids.append(slice_id)
            seen.version[slice_id] = int(added.version_E[place])
            seen.clock.update(
                {(worker, slice_id): int(clock) for worker, clock in enumerate(row[place] for row in added.clock_WE)}
            )

    def _commit(self, seen: ShardSeen, slice_id: int, commit: Commit) -> None:
        before = seen.version[slice_id]
        where = f"{self.name(slice_id)}, version {commit.version}:"
        self.expect(commit.version == before + 1, "versions", where, f"came after {before}")
        order = [(c.worker, c.seq) for c in commit.contributions]
        self.expect(order == sorted(order), "versions", where, "not in rank order:", order)
        self.counts["commits"] += bool(order)
        pushes = [self._contributed(slice_id, commit, c, where) for c in commit.contributions]
        known = [push for push in pushes if push is not None]
        if len(known) == len(pushes) and before in self.history.get(slice_id, {}):
            old = self.history[slice_id][before]
            self.history[slice_id][commit.version] = self._stepped(slice_id, old, commit, known)
            self.views.commit(slice_id, commit.version, commit.clock)
        seen.version[slice_id] = commit.version
        for worker, seq in commit.late:
            self._settle(worker, slice_id, seq, (Code.LATE, commit.version))
        for worker in commit.finished:
            self._finish(seen, worker, slice_id, commit.version, commit.clock)

    def _contributed(self, slice_id: int, commit: Commit, c: Contribution, where: str) -> PushSeen | None:
        self._settle(c.worker, slice_id, c.seq, (Code.APPLIED, commit.version))
        push = self.pushes.get((c.worker, slice_id), {}).get(c.seq)
        if push is None:
            self.expect(False, "exactly once", where, f"push {c.seq} of worker {c.worker} was never made")
            return None
        self.expect(push.weight == c.weight, "values", where, push, "weighs", push.weight, "and became", c.weight)
        if self.gather is None:
            stale = commit.version - 1 - push.base
            self.expect(stale == commit.staleness >= 0, "versions", where, push, "has staleness", stale, commit)
        else:
            round_ = self._round(push)
            self.expect(round_ == commit.version - 1, "versions", where, push, "belongs to round", round_)
        return push

    def _round(self, push: PushSeen) -> int:
        """The round that this push belongs to; where pushes commit on arrival, its clock."""
        if self.gather is None:
            return push.clock
        return push.base if self.by_version else self.rounds(push.slice, push.clock)

    def rounds(self, slice_id: int, clock: int) -> int:
        """How many rounds of this slice have ended up to this clock, where rounds are made of clocks."""
        assert self.gather is not None
        every, fragments = self.gather.clocks, self.model.cadence.fragments
        first = slice_id % fragments * every // fragments
        return sum((c - first) % every == 0 for c in range(1, clock + 1))

    def _stepped(self, slice_id: int, old: Array, commit: Commit, pushes: Sequence[PushSeen]) -> Array:
        """One commit, in the slice's dtype and in this order; optimizers but `add` and `sgd` are tested elsewhere."""
        if not pushes:
            return old
        kind = old.dtype.type
        grad = pushes[0].frame
        if self.gather is not None or self.rule.TAKES == "sum":
            encoded = any(push.codec != RAW for push in pushes)  # then the sum starts from zeros
            grad = kind(pushes[0].weight) * pushes[0].frame + (kind(0) if encoded else kind(-0.0))
            for push in pushes[1:]:
                grad = grad + kind(push.weight) * push.frame
        if self.rule.TAKES == "sum":
            return np.asarray(old + grad)
        if self.gather is not None:
            grad = grad / kind(math.fsum(kind(push.weight) for push in pushes))
        lr = commit.lr * self.keyspace.slices[slice_id].options.lr_scale
        if isinstance(self.rule, Sgd):
            return np.asarray(old - kind(lr) * grad)
        state = self.state.setdefault(slice_id, [np.zeros_like(old) for _ in self.rule.state])
        new = np.empty_like(old)
        self.rule.update(old, np.asarray(grad), state, new, Step(lr, number=commit.number))
        return new

    def _settle(self, worker: int, slice_id: int, seq: int, verdict: tuple[Code, int]) -> None:
        settled = self.settled.setdefault((worker, slice_id), {})
        push = f"push {seq} of worker {worker} on {self.name(slice_id)}"
        self.expect(seq not in settled, "exactly once", push, f"has {settled.get(seq)} and {verdict}")
        settled[seq] = verdict
        self.counts["late"] += verdict[0] == Code.LATE

    def _finish(self, seen: ShardSeen, worker: int, slice_id: int, rounds: int, clock: int) -> None:
        """The worker's clock is closed: whatever it has pushed in earlier rounds must be in the log."""
        seen.clock[worker, slice_id] = max(clock, seen.clock.get((worker, slice_id), 0))
        settled = self.settled.get((worker, slice_id), {})
        until = sys.maxsize
        if self.by_version:  # a tick that was made before the slice was known closes a round of it, too
            until = self.ticks.get((worker, slice_id, rounds - 1), -1) if slice_id < self.first else -1
        for seq, push in self.pushes.get((worker, slice_id), {}).items():
            before = self._round(push) < rounds and push.clock <= until
            if before and push.incarnation == seen.incarnation.get(worker):
                where = (self.name(slice_id), "clock", clock, "of worker", worker)
                self.expect(seq in settled, "clocks", *where, "is closed, and there is no verdict of", push)

    # ---- workers ----------------------------------------------------------------------------------------------------

    def on_push(self, push: PushSeen) -> None:
        """A worker sends a push for the first time."""
        self.counts["pushes"] += 1
        settled = self.settled.get((push.worker, push.slice), {})
        self.expect(push.seq not in settled, "exactly once", push, "takes a number that has", settled.get(push.seq))
        self.pushes.setdefault((push.worker, push.slice), {})[push.seq] = push

    def on_tick(self, worker: int, slice_id: int, base: int, clock: int) -> None:
        """A worker finishes a clock; where rounds are versions, the first clock on a version may close its round."""
        self.ticks.setdefault((worker, slice_id, base), clock)

    def on_verdict(self, worker: int, incarnation: int, slice_id: int, seq: int, verdict: tuple[Code, int]) -> None:
        """A worker is told what became of its push."""
        push = self.pushes.get((worker, slice_id), {}).get(seq)
        own = push is not None and push.incarnation == incarnation
        if verdict[0] != Code.GATHERED:
            log = self.settled.get((worker, slice_id), {}).get(seq)
            what = f"worker {worker}, {self.name(slice_id)}, push {seq}"
            self.expect(log == verdict, "verdicts", what, f"was told {verdict}, the log says {log}")
        if push is not None and own and (push.verdict is None or push.verdict[0] == Code.GATHERED):
            push.verdict = verdict

    def on_read(self, worker: int, slice_id: int, version: int, min_clock: int, frame: Frame) -> Array:
        """Values have reached a worker: whole, true, and with all that they must hold. Returns what it has now."""
        self.counts["reads"] += 1
        seen = self.shard_of[slice_id]
        where = f"worker {worker} read {self.name(slice_id)} at version {version}:"
        expected = self.views.expected(worker, slice_id, version, frame)
        values = self.views.received(worker, slice_id, frame)
        if expected is None:
            self.expect(False, "values", where, "no such version")
        else:
            same = values.tobytes() == expected.tobytes()
            self.expect(same, "values", where, "expected", expected, "got", values)
        least = seen.min_clock(slice_id)
        self.expect(min_clock <= least, "reads", where, f"was told min clock {min_clock}, it is {least}")
        if self.gather is None:
            for other in sorted(seen.live):
                self._holds_pushes(seen, where, slice_id, version, other, None if other == worker else min_clock)
        return values

    def _holds_pushes(
        self, seen: ShardSeen, where: str, slice_id: int, version: int, worker: int, clock: int | None
    ) -> None:
        """The version holds the worker's pushes of clocks below `clock`; None: all that it has made."""
        settled = self.settled.get((worker, slice_id), {})
        for seq, push in self.pushes.get((worker, slice_id), {}).items():
            if push.incarnation == seen.incarnation.get(worker) and (clock is None or push.clock < clock):
                inside = seq in settled and settled[seq][1] <= version
                self.expect(inside, "reads", where, push, "is missing:", settled.get(seq))

    def promise(
        self, slice_id: int, clock: int, since: int, version: int, min_clock: int, restarted: bool
    ) -> str | None:
        """What the model promises to a reader at `clock`, where these numbers break it.

        since: the clock at which it has first read the slice. restarted: where nobody waits for who was lost, the
        versions that it missed are gone.
        """
        model: Consistency = self.model
        if isinstance(model, BulkSynchronous | LocalSteps):
            exact = self.rounds(slice_id, max(clock - model.cadence.overlap, since))
            if version > exact and restarted and not self.waits:
                return None
            return None if version == exact else f"expected exactly version {exact}"
        if isinstance(model, StaleSynchronous):
            return None if clock - min_clock <= model.staleness else f"expected min clock >= {clock - model.staleness}"
        if self.by_version or model.cadence.pull_every > 1:
            return None
        open_E = model.gate(np.array([clock]), np.array([min_clock]), np.array([version]), True)
        return None if bool(open_E.all()) else "expected an open gate"
