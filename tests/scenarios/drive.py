"""Drives one Shard by hand: short words for its events, one line of text for each of its actions.

The words keep the books of honest workers (clock, push numbers, versions in hand, pull ids), so a test says only what
matters to it. In the lines `2#5` is push number 5 on slice 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ps.consistency import consistency
from ps.keyspace import Parameter
from ps.messages import (
    Ask,
    Code,
    Committed,
    CommittedByAll,
    Confirmed,
    Gap,
    InitDone,
    Join,
    Leave,
    LeaveDone,
    Lost,
    Place,
    Placed,
    Pull,
    Push,
    Rate,
    Rejected,
    Spec,
    Tick,
    Ticked,
    Verdicts,
    Waiting,
    Welcome,
)
from ps.optim import optimizer, schedule
from ps.server.actions import Action, Answer, Apply, Drop, DropUnfinished, Forget, Keep, Replicate, Send, Store, Waited
from ps.server.core import Shard
from ps.server.ledger import (
    Added,
    Adopted,
    Commit,
    Finished,
    Initialised,
    Joined,
    Left,
    LrChanged,
    Record,
    Refused,
    Sent,
)
from ps.types import Clock, Int64, WorkerId

Ids = int | Sequence[int] | None
Numbers = int | Sequence[int] | None

PARAMETER_SHAPE = (64, 64)  # 16 KiB: too large for a bundle, so each parameter is one slice


@dataclass
class Books:
    """What an honest worker knows of itself."""

    incarnation: int = 1
    clock: int = 0
    number: dict[int, int] = field(default_factory=dict)  # slice -> last push number
    base: dict[int, int] = field(default_factory=dict)  # slice -> version in hand
    pull: int = 0  # last pull id


class Drive:
    """A shard with `slices` slices and `workers` joined workers, all initialised; each word returns lines."""

    def __init__(
        self, model: str, workers: int = 2, slices: int = 1, rule: str = "sgd:lr=0.1", keep: bool = False
    ) -> None:
        self.shard = Shard(0, workers, consistency(model), optimizer(rule), schedule("constant"), keep)
        self.books = {worker: Books() for worker in range(workers)}
        self.applies: list[list[Commit]] = []  # started, not yet reported
        self.records: list[Record] = []
        self.now = 0.0
        self.slices = 0
        if slices:
            self.place(slices)
            for worker in range(workers):
                self.join(worker)
            self.init(0)

    # ---- events -----------------------------------------------------------------------------------------------------

    def handle(self, message: Any) -> list[str]:
        return self._said(self.shard.handle(message, self.now))

    def place(self, slices: int = 1, elsewhere: int = 0) -> list[str]:
        """A new batch: `slices` that live here and then some that live on shard 1."""
        first, count = self.slices, slices + elsewhere
        self.slices += count
        specs = tuple(Spec.of(Parameter(f"w{first + i}", PARAMETER_SHAPE, "float32")) for i in range(count))
        shard_E = np.array([0] * slices + [1] * elsewhere)
        return self.handle(Place(self.shard.slices.epoch, specs, self.shard.slices.epoch + 1, shard_E))

    def init(self, worker: int = 0, slices: Ids = None) -> list[str]:
        return self._said(self.shard.on_init(worker, self._ids(slices), self.now))

    def join(self, worker: int, incarnation: int = 1) -> list[str]:
        self.books.setdefault(worker, Books()).incarnation = incarnation
        return self.handle(Join(WorkerId(worker), incarnation))

    def push(
        self,
        worker: int,
        slices: Ids = None,
        clock: int | None = None,
        number: Numbers = None,
        base: Numbers = None,
        weight: float = 1.0,
        incarnation: int | None = None,
    ) -> list[str]:
        books, ids = self.books[worker], self._ids(slices)
        seq_E = self._numbers(number, [books.number.get(int(i), 0) + 1 for i in ids])
        base_E = self._numbers(base, [books.base.get(int(i), 0) for i in ids])
        if incarnation is None:
            for slice_id, seq in zip(ids.tolist(), seq_E.tolist(), strict=True):
                books.number[slice_id] = max(seq, books.number.get(slice_id, 0))
        at = Clock(books.clock if clock is None else clock)
        who = books.incarnation if incarnation is None else incarnation
        return self.handle(Push(WorkerId(worker), who, at, weight, ids, seq_E, base_E))

    def tick(
        self,
        worker: int,
        slices: Ids = None,
        clock: int | None = None,
        number: Numbers = None,
        base: Numbers = None,
        incarnation: int | None = None,
    ) -> list[str]:
        books, ids = self.books[worker], self._ids(slices)
        seq_E = self._numbers(number, [books.number.get(int(i), 0) for i in ids])
        base_E = self._numbers(base, [books.base.get(int(i), 0) for i in ids])
        at = Clock(books.clock if clock is None else clock)
        books.clock = max(books.clock, at + 1)
        who = books.incarnation if incarnation is None else incarnation
        return self.handle(Tick(WorkerId(worker), who, at, ids, seq_E, base_E))

    def pull(
        self,
        worker: int,
        slices: Ids = None,
        clock: int | None = None,
        number: Numbers = None,
        id: int | None = None,
        oldest: int | None = None,
        late: bool = False,
        incarnation: int | None = None,
    ) -> list[str]:
        books, ids = self.books[worker], self._ids(slices)
        seq_E = self._numbers(number, [books.number.get(int(i), 0) for i in ids])
        books.pull = books.pull + 1 if id is None else max(id, books.pull)
        wanted = books.pull if id is None else id
        at = Clock(books.clock if clock is None else clock)
        who = books.incarnation if incarnation is None else incarnation
        least = wanted if oldest is None else oldest
        return self.handle(Pull(WorkerId(worker), who, wanted, least, at, late, ids, seq_E))

    def ask(self, worker: int, number: Numbers, slices: Ids = None) -> list[str]:
        ids = self._ids(slices)
        return self.handle(Ask(WorkerId(worker), self.books[worker].incarnation, ids, self._numbers(number, [])))

    def leave(self, worker: int, incarnation: int | None = None) -> list[str]:
        who = self.books[worker].incarnation if incarnation is None else incarnation
        return self.handle(Leave(WorkerId(worker), who))

    def lost(self, worker: int, wait: bool = False, incarnation: int | None = None) -> list[str]:
        who = self.books[worker].incarnation if incarnation is None else incarnation
        return self.handle(Lost(WorkerId(worker), who, wait))

    def committed_by_all(self, clock: int) -> list[str]:
        return self.handle(CommittedByAll(clock))

    def set_lr(self, lr: float, clock: int) -> list[str]:
        return self.handle(Rate(1, lr, Clock(clock)))

    def applied(self) -> list[str]:
        """The oldest apply is done."""
        return self._said(self.shard.on_applied(self.applies.pop(0), self.now))

    def settle(self) -> list[str]:
        """All applies are done, those too that follow from them."""
        lines = []
        while self.applies:
            lines += self.applied()
        return lines

    def step(self, worker: int, slices: Ids = None) -> list[str]:
        """One honest clock: push and tick, applies done at once."""
        return self.push(worker, slices) + self.settle() + self.tick(worker) + self.settle()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _ids(self, slices: Ids) -> Int64:
        return np.atleast_1d(np.array(self.shard.ledger.ids_S if slices is None else slices, np.int64))

    def _numbers(self, given: Numbers, default: Sequence[int]) -> Int64:
        if given is None:
            return np.array(default, np.int64)
        if isinstance(given, int):
            return np.full(max(len(default), 1), given)
        return np.array(given, np.int64)

    def _said(self, actions: list[Action]) -> list[str]:
        lines = []
        for action in actions:
            self._note(action)
            lines += [show_commit(commit) for commit in action.commits] if isinstance(action, Apply) else [show(action)]
        return lines

    def _note(self, action: Action) -> None:
        """Keeps the books."""
        match action:
            case Apply(commits):
                self.applies.append(commits)
            case Replicate(record):
                self.records.append(record)
            case Answer():
                books = self.books.get(int(action.to.split(":")[1]))
                if books is not None:
                    ids = self.shard.ledger.ids_S[action.slices]
                    books.base.update(zip(ids.tolist(), action.version_E.tolist(), strict=True))
            case Send(to, Welcome() as welcome):
                books = self.books[int(to.split(":")[1])]
                books.number = dict(zip(welcome.slice_E.tolist(), welcome.seq_E.tolist(), strict=True))
                clocks = [int(welcome.clock), *welcome.clock_E.tolist()]
                books.clock = max(clocks) if welcome.joined else min(clocks)


# ---- lines ----------------------------------------------------------------------------------------------------------


def show(action: Action) -> str:
    """One action in one line."""
    match action:
        case Send(to, body):
            return f"{to} <- {show_body(body)}"
        case Answer():
            values = ", ".join(f"{i} v{v}" for i, v in zip(action.slices, action.version_E, strict=True))
            least = min(action.min_clock_E.tolist(), default=0)
            rate = f"lr {action.lr:g} x {action.rate:g}"
            return f"{action.to} <- values for pull {action.id}: {values}; min clock {least}; {rate}"
        case Keep(worker, _, slices, numbers):
            return f"keep worker {worker}: {pushes(slices, numbers)}"
        case Drop(keys):
            return "drop " + ", ".join(f"worker {worker}: {index}#{seq}" for worker, index, seq in keys)
        case DropUnfinished(worker, kept_S):
            return f"drop worker {worker} above: {pushes(range(len(kept_S)), kept_S)}"
        case Store(_, slices):
            return f"store {listed(slices)}"
        case Replicate(record):
            return f"log {show_record(record)}"
        case Forget(version_S):
            return f"forget below {', '.join(f'{index} v{version}' for index, version in enumerate(version_S))}"
        case Waited(worker, waited_for, seconds):
            return f"waited worker {worker}: {seconds:g} s for worker {waited_for}"
        case Apply(commits):
            return "; ".join(map(show_commit, commits))


def show_body(body: Any) -> str:
    """One message in one line."""
    match body:
        case Verdicts():
            columns = (body.slice_E, body.seq_E, body.code_E, body.version_E)
            return "verdicts " + ", ".join(show_verdict(*entry) for entry in zip(*columns, strict=True))
        case Gap():
            return f"gap, last taken {pushes(body.slice_E, body.seq_E)}"
        case Ticked():
            return f"ticked {body.clock}{' late' if body.late else ''}"
        case Welcome():
            entries = zip(body.slice_E, body.seq_E, body.clock_E, strict=True)
            places = ", ".join(f"{i}#{n} clock {c}" for i, n, c in entries)
            return f"welcome{' as joiner' if body.joined else ''}, clock {body.clock}: {places}"
        case InitDone(slice_E):
            return f"init done {listed(slice_E)}"
        case Waiting():
            return f"waiting for worker {body.worker} at clock {body.clock} on {body.slice}, silent {body.silent_s:g} s"
        case LeaveDone():
            return "leave done"
        case Rejected():
            return f"rejected{' and fenced' if body.fenced else ''}: {body.reason}"
        case Confirmed(_, order):
            return f"confirmed {order}"
        case Placed(_, epoch):
            return f"placed, epoch {epoch}"
        case Committed(_, clock):
            return f"committed clock {clock}"
    raise AssertionError(body)


def show_verdict(index: int, seq: int, code: int, version: int) -> str:
    where = "" if code == Code.GATHERED else f" v{version}"
    return f"{index}#{seq} {Code(code).name.lower()}{where}"


def show_record(record: Record) -> str:
    """One record of the log in one line."""
    match record:
        case Commit():
            return f"commit {record.slice} v{record.version}"
        case Adopted(optimizer):
            return f"adopted {optimizer}"
        case Refused(worker, index, seq, version):
            return f"refused worker {worker}: {index}#{seq} v{version}"
        case Finished(worker, slices, clock):
            return f"finished worker {worker}: {listed(slices)} clock {clock}"
        case Joined(worker, incarnation, clock_S):
            return f"joined worker {worker}, incarnation {incarnation}, clock {listed(clock_S)}"
        case Left(worker, incarnation):
            return f"left worker {worker}, incarnation {incarnation}"
        case Added(ids, version_E):
            return f"added {listed(ids)} at v{listed(version_E)}"
        case Initialised(slices):
            return f"initialised {listed(slices)}"
        case LrChanged(lr, at_clock):
            return f"lr {lr:g} from clock {at_clock}"
        case Sent(worker, slices):
            return f"sent worker {worker}: {listed(slices)}"


def show_commit(commit: Commit) -> str:
    """One commit that starts."""
    inside = ", ".join(
        f"worker {push.worker}#{push.seq}" + (f" x {push.weight:g}" if push.weight != 1 else "")
        for push in commit.contributions
    )
    late = ", late " + ", ".join(f"worker {w}#{seq}" for w, seq in commit.late) if commit.late else ""
    stale = f", staleness {commit.staleness}" if commit.staleness else ""
    return f"apply {commit.slice} -> v{commit.version}: {inside or 'nothing'}; lr {commit.lr:g}{stale}{late}"


def pushes(slices: Iterable[int], numbers: Iterable[int]) -> str:
    return ", ".join(f"{index}#{seq}" for index, seq in zip(slices, numbers, strict=True))


def listed(items: Iterable[int]) -> str:
    return ",".join(str(item) for item in items)


def values(lines: list[str], worker: int) -> list[str]:
    """What pulls of this worker were answered: `0 v1, 1 v1`."""
    start = f"worker:{worker} <- values for pull"
    return [line.split(": ", 1)[1].split(";")[0] for line in lines if line.startswith(start)]


def said(lines: list[str], to: str) -> list[str]:
    """The messages to one peer."""
    return [line.removeprefix(f"{to} <- ") for line in lines if line.startswith(f"{to} <- ")]
