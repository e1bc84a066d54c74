"""The replicated numbers of one shard: what a follower must know to take over, changed only by records.

The primary decides and writes records; primary and follower both pass every record through `Ledger.apply`, in one
order, so they cannot differ. W: workers by rank; S: slices of this shard, by local index.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np

from ps.messages import Code, Counts, Flag, Ids, Number, Real, Text
from ps.types import Array, Bool, Int64, frozen
from ps.wire import COUNT, COUNTS_E, INT64, listing, tuple_of

VERDICTS_KEPT = 64  # per worker and slice; a worker has fewer pushes of one slice in flight
PUSHES_MAX = 1 << 31  # in one commit


@frozen
class Contribution:
    """One push inside a commit."""

    worker: Number
    seq: Number
    weight: Real
    clock: Number


@frozen
class Commit:
    """One step on one slice. No contributions: the round was empty, only the version moves on.

    lr: schedule and 1/live in it, the slice's own scale not. number: steps of this slice, this one included.
    finished: workers whose clock on the slice becomes `clock` (gathering models). late: pushes refused by it.
    base: the version the one push of an arrival was computed on.
    """

    slice: Number
    version: Number  # that it makes
    lr: Real
    number: Number
    staleness: Annotated[int, INT64]
    base: Number
    contributions: Annotated[tuple[Contribution, ...], listing(Contribution, PUSHES_MAX)]
    finished: Annotated[tuple[int, ...], tuple_of(COUNT, PUSHES_MAX)] = ()
    clock: Number = 0
    late: Annotated[tuple[tuple[int, int], ...], tuple_of(tuple_of(COUNT, 2), PUSHES_MAX)] = ()  # (worker, seq)


@frozen
class Refused:
    """A push that came after its round was committed."""

    worker: Number
    slice: Number
    seq: Number
    version: Number


@frozen
class Finished:
    """A worker has finished clocks on slices (models that apply on arrival; gathering ones say it in the commit)."""

    worker: Number
    slices: Ids
    clock: Number


@frozen
class Joined:
    """A worker takes part from now on, under this incarnation; clock_S: its clock on each slice."""

    worker: Number
    incarnation: Number
    clock_S: Counts


@frozen
class Left:
    """A worker counts no longer; messages up to this incarnation are refused. done: it had finished its work."""

    worker: Number
    incarnation: Number
    done: Flag


@frozen
class Added:
    """Slices are new here: their ids, the versions they start with, each worker's clock on each."""

    ids: Ids
    version_E: Counts
    clock_WE: Annotated[tuple[Int64, ...], tuple_of(COUNTS_E, PUSHES_MAX)]


@frozen
class Adopted:
    """From the first slice on the script's own optimizer takes the place of the run's."""

    optimizer: Text


@frozen
class Initialised:
    """The slices have values (the payload travels beside the record)."""

    slices: Ids


@frozen
class LrChanged:
    """From this clock on the learning rate is `lr`."""

    lr: Real
    at_clock: Number


@frozen
class Sent:
    """A worker was sent these slices: what delay compensation measures its next push against."""

    worker: Number
    slices: Ids


Record: TypeAlias = Commit | Refused | Finished | Joined | Left | Adopted | Added | Initialised | LrChanged | Sent


class Ledger:
    """Versions, clocks, push numbers, verdicts, members and rates of one shard."""

    def __init__(self, workers: int) -> None:
        self.ids_S: Int64 = np.empty(0, np.int64)
        self.version_S: Int64 = np.empty(0, np.int64)
        self.number_S: Int64 = np.empty(0, np.int64)
        self.ready_S: Bool = np.empty(0, np.bool_)
        self.unready = 0  # slices without values
        self.clock_WS: Int64 = np.zeros((workers, 0), np.int64)
        self.last_WS: Int64 = np.zeros((workers, 0), np.int64)  # last push number with a final verdict
        self.verdict_WSK: Int64 = np.zeros((workers, 0, VERDICTS_KEPT), np.int64)
        self.ahead: dict[tuple[int, int], list[int]] = {}  # (worker, slice) -> clocks of pushes in unfinished clocks
        self.live_W: Bool = np.ones(workers, np.bool_)
        self.done_W: Bool = np.zeros(workers, np.bool_)
        self._planned = workers
        self._least_S: Int64 | None = None  # what `min_clock_S` gives, while it holds
        self._count()
        self.incarnation_W: Int64 = np.zeros(workers, np.int64)
        self.rates: list[LrChanged] = []

    def apply(self, record: Record) -> None:
        """The only way these numbers change."""
        match record:
            case Commit():
                self._commit(record)
            case Refused(worker, index, seq, version):
                self._settle(worker, index, seq, -version - 1)
            case Finished(worker, slices, clock):
                clock_S = self.clock_WS[worker]
                before_E = clock_S[slices]
                clock_S[slices] = np.maximum(before_E, clock)
                if self._least_S is not None and (not self.live or np.count_nonzero(before_E == self._least_S[slices])):
                    self._least_S = None
                if self.ahead:
                    self._forget_ahead(worker, slices.tolist())
            case Joined(worker, incarnation, clock_S):
                self.make_room(worker)
                self.live_W[worker], self.done_W[worker] = True, False
                self.incarnation_W[worker] = incarnation
                self.clock_WS[worker] = clock_S
                self._count()
            case Left(worker, incarnation, done):
                self.make_room(worker)
                self.live_W[worker], self.done_W[worker] = False, done
                self.incarnation_W[worker] = incarnation
                self._count()
            case Added():
                self._add(record)
            case Initialised(slices):
                self.ready_S[slices] = True
                self.unready = len(self.ready_S) - int(self.ready_S.sum())
            case LrChanged():
                self.rates.append(record)
                self.rates.sort(key=lambda change: change.at_clock)  # stable: of equal clocks the last said holds
            case Sent() | Adopted():
                pass  # about values only

    def verdict(self, worker: int, index: int, seq: int) -> tuple[Code, int]:
        """The stored verdict of a push number <= last: (code, version)."""
        stored = int(self.verdict_WSK[worker, index, seq % VERDICTS_KEPT])
        return (Code.APPLIED, stored) if stored >= 0 else (Code.LATE, -stored - 1)

    def _count(self) -> None:
        """Who is live has changed.

        sharing: workers by whom models that apply on arrival divide the rate: the live ones, and of those the run began
        with also who is done: a step of the others must not grow because of that. Who was lost does not count.
        """
        self.live = int(self.live_W.sum())
        self.first_live = int(np.argmax(self.live_W)) if self.live else 0
        self.sharing = max(self.live, min(self.live + int(self.done_W.sum()), self._planned), 1)
        self._least_S = None

    def min_clock_S(self) -> Int64:
        """The least clock that all live workers have finished, per slice; with nobody live, the largest finished."""
        if self._least_S is None:
            counts_WS = self.clock_WS[self.live_W]
            self._least_S = counts_WS.min(axis=0) if self.live else self.clock_WS.max(axis=0, initial=0)
            self._least_S.flags.writeable = False  # it is handed out
        return self._least_S

    def lr(self, clock: int, scheduled: float) -> float:
        """The rate in force at `clock`: the last `set_lr` up to it, else what the schedule says."""
        for change in reversed(self.rates):
            if change.at_clock <= clock:
                return change.lr
        return scheduled

    def make_room(self, worker: int) -> None:
        """Rows up to this rank; new ones are not live."""
        missing = worker + 1 - len(self.live_W)
        if missing > 0:
            self.live_W = grown(self.live_W, missing, 0)
            self.incarnation_W = grown(self.incarnation_W, missing, 0)
            self.done_W = grown(self.done_W, missing, 0)
            for name in ("clock_WS", "last_WS", "verdict_WSK"):
                setattr(self, name, grown(getattr(self, name), missing, 0))
            self._least_S = None

    def state(self) -> list[bytes]:
        """Every number, as bytes: equal on primary and follower at the same place in the log."""
        arrays = (self.ids_S, self.version_S, self.number_S, self.ready_S, self.clock_WS, self.last_WS)
        rest = (self.verdict_WSK, self.live_W, self.done_W, self.incarnation_W)
        rates = np.array([(change.lr, change.at_clock) for change in self.rates])
        ahead = np.array([(*key, clock) for key, clocks in sorted(self.ahead.items()) for clock in clocks], np.int64)
        return [array.tobytes() for array in (*arrays, *rest, rates, ahead)]

    def _commit(self, commit: Commit) -> None:
        index = commit.slice
        self.version_S[index] = commit.version
        self.number_S[index] = commit.number
        if commit.finished and commit.contributions:
            workers = [push.worker for push in commit.contributions]
            seq_C = np.array([push.seq for push in commit.contributions])  # ascending per worker: the last one stays
            self.verdict_WSK[workers, index, seq_C % VERDICTS_KEPT] = commit.version
            self.last_WS[workers, index] = np.maximum(self.last_WS[workers, index], seq_C)
        else:
            for push in commit.contributions:
                self._settle(push.worker, index, push.seq, commit.version)
                if push.clock >= self.clock_WS[push.worker, index]:
                    self.ahead.setdefault((push.worker, index), []).append(push.clock)
        for worker, seq in commit.late:
            self._settle(worker, index, seq, -commit.version - 1)
        if commit.finished:
            rows = list(commit.finished)
            self.clock_WS[rows, index] = np.maximum(self.clock_WS[rows, index], commit.clock)
            self._least_S = None

    def _settle(self, worker: int, index: int, seq: int, stored: int) -> None:
        self.verdict_WSK[worker, index, seq % VERDICTS_KEPT] = stored
        self.last_WS[worker, index] = max(int(self.last_WS[worker, index]), seq)

    def _forget_ahead(self, worker: int, slices: list[int]) -> None:
        for index in slices:
            if clocks := self.ahead.pop((worker, index), None):
                finished = self.clock_WS[worker, index]
                if left := [clock for clock in clocks if clock >= finished]:
                    self.ahead[worker, index] = left

    def _add(self, added: Added) -> None:
        count, workers = len(added.ids), len(self.live_W)
        self.ids_S = np.concatenate((self.ids_S, added.ids))
        self.version_S = np.concatenate((self.version_S, added.version_E))
        self.number_S = grown(self.number_S, count, 0)
        self.ready_S = grown(self.ready_S, count, 0)
        self.unready += count
        self.clock_WS = np.concatenate((self.clock_WS, np.reshape(added.clock_WE[:workers], (workers, count))), axis=1)
        self.last_WS = grown(self.last_WS, count, 1)
        self.verdict_WSK = grown(self.verdict_WSK, count, 1)
        self._least_S = None


def grown(array: Array, count: int, axis: int) -> Array:
    """The array with `count` zero entries appended along `axis`."""
    shape = list(array.shape)
    shape[axis] = count
    return np.concatenate((array, np.zeros(shape, array.dtype)), axis=axis)
