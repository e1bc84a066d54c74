"""Commits of gathering models: one aggregated step per slice and round, when its quorum has finished it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ps.consistency import Consistency, Gather
from ps.messages import Code
from ps.server.ledger import Commit, Contribution, Ledger, Record, Refused, grown
from ps.types import Bool, Int64

Round = dict[int, list[Contribution]]  # worker -> its pushes in this round


class Rounds:
    """Open rounds of every slice. A round is named by the version that its commit starts from.

    done_WS: the round up to which a worker has finished, exclusive: `done > round` means it has delivered. Nothing in
    here is replicated: a new primary starts with empty rounds and asks for the pushes again.
    """

    def __init__(self, ledger: Ledger, model: Consistency, lr: Callable[[int], float]) -> None:
        self.ledger, self.model, self.lr = ledger, model, lr
        self.admitted_WS: Int64 = np.zeros_like(ledger.last_WS)  # last push number taken
        self.done_WS: Int64 = np.zeros_like(ledger.clock_WS)
        self.resting_W: Bool = np.zeros(len(self.done_WS), np.bool_)  # who waits for others, at a barrier or the like
        self.open_S: Int64 = np.zeros(0, np.int64)  # rounds that pushes may still enter: version, + 1 while in flight
        self.rounds: list[dict[int, Round]] = []
        self.late: list[list[tuple[int, int]]] = []  # refusals that wait for the commit in flight
        gather = self.gather
        self.clocks, self.by_clock = gather.clocks, gather.by == "clock"
        self.shift_S: Int64 = np.zeros(0, np.int64)  # clocks by which a slice's rounds are ahead
        self.changed = False  # rounds may be complete
        self.least = 0  # workers, of whom each would have to finish before any round can be complete

    @property
    def gather(self) -> Gather:
        """The model's decision for the workers that are live now."""
        decision = self.model.commit(max(self.ledger.live, 1))
        assert isinstance(decision, Gather)
        return decision

    def add_slices(self, count: int) -> None:
        first = len(self.rounds)
        self.admitted_WS = grown(self.admitted_WS, count, 1)
        self.shift_S = self.model.cadence.shift_E(self.ledger.ids_S)
        done_WS = (self.ledger.clock_WS[:, first:] + self.shift_S[first:]) // self.clocks
        self.done_WS = np.concatenate((self.done_WS, done_WS), axis=1)
        self.open_S = np.concatenate((self.open_S, self.ledger.version_S[first:]))  # old ones may be in flight
        self.rounds.extend({} for _ in range(count))
        self.late.extend([] for _ in range(count))

    def start_of_new(self, slice_E: Int64, clock_W: Int64) -> tuple[Int64, Int64]:
        """The versions that new slices (by id) start with, and each worker's clock on each of them."""
        live_W, shift_E = self.ledger.live_W, self.model.cadence.shift_E(slice_E)
        least = int(clock_W[live_W].min()) if self.by_clock and live_W.any() else 0
        start_E = (least + shift_E) // self.clocks
        clock_E = np.maximum(start_E * self.clocks - shift_E, 0)
        return start_E, np.repeat(clock_E[None], len(clock_W), 0)

    def make_room(self, worker: int) -> None:
        """A row for every rank that the ledger knows."""
        missing = len(self.ledger.last_WS) - len(self.admitted_WS)
        self.admitted_WS, self.done_WS = grown(self.admitted_WS, missing, 0), grown(self.done_WS, missing, 0)
        self.resting_W = grown(self.resting_W, missing, 0)

    def prefix_S(self, worker: int) -> Int64:
        """Per slice the last push number up to which all have a verdict: gathered is one."""
        row: Int64 = self.admitted_WS[worker]
        return row

    def gate_clock_E(self, worker: int, slices: Int64, clock: int) -> Int64:
        """The worker's clock on these slices, as the gate asks for it: by version it is the round it may go on to."""
        if self.by_clock:
            clock_E: Int64 = clock + self.shift_S[slices]
            return clock_E
        row: Int64 = self.done_WS[worker][slices]
        return row

    def clock_S(self, worker: int) -> Int64:
        """Clocks that the worker has finished, per slice."""
        row: Int64 = self._begin_S(self.done_WS[worker])
        return row

    def standing_S(self, worker: int) -> Int64:
        """Per slice the last clock at which the worker can stand, by what it has finished."""
        return self._last_S(self.done_WS[worker])

    @property
    def committed(self) -> int:
        """No worker comes back to an earlier clock and finds a later version: all had finished more than that."""
        return int(self._last_S(self.ledger.version_S).min())

    def version_E(self, slices: Int64, clock: int) -> Int64:
        """The version of each slice that a worker at this clock computes on."""
        version_E: Int64 = (clock + self.shift_S[slices]) // self.clocks
        return version_E

    def _begin_S(self, round_S: Int64) -> Int64:
        """The clock at which this round of each slice begins."""
        begin_S: Int64 = np.maximum(round_S * self.clocks - self.shift_S, 0)
        return begin_S

    def _last_S(self, round_S: Int64) -> Int64:
        """The last clock of an exchange at which each slice is in this round: the next exchange ends it."""
        stretch = self.clocks // self.model.cadence.fragments
        last_S: Int64 = (round_S + 1) * self.clocks - self.shift_S - stretch
        return last_S

    def take(self, worker: int, index: int, seq: int, base: int, weight: float, clock: int) -> Code | None:
        """Admits one push into its round; LATE when the round is over; None while its refusal has to wait its turn."""
        self.admitted_WS[worker, index] = seq
        self.resting_W[worker] = False  # it gave up waiting
        number = (clock + int(self.shift_S[index])) // self.clocks if self.by_clock else base
        if number >= self.open_S[index]:
            self.rounds[index].setdefault(number, {}).setdefault(worker, []).append(
                Contribution(worker, seq, weight, clock)
            )
            return Code.GATHERED
        if self.open_S[index] > self.ledger.version_S[index]:
            self.late[index].append((worker, seq))
            return None
        return Code.LATE

    def finish(self, worker: int, slices: Int64, clock: int, base_E: Int64) -> tuple[list[Record], bool]:
        """The worker's clock is closed on these slices. True: by version, it was too late on some, and jumps there."""
        late = False
        if self.by_clock:
            done_E = self.version_E(slices, clock)
        else:
            open_E = self.open_S[slices]
            late_E = base_E != open_E
            late = bool(np.count_nonzero(late_E))
            done_E = np.where(late_E, open_E, open_E + 1)
        done_S = self.done_WS[worker]
        done_S[slices] = np.maximum(done_S[slices], done_E)
        self.least -= 1
        self.changed |= self.least <= 0
        return [], late

    def due(self) -> list[Commit]:
        """Commits that can start now. With nobody live, what those who left had finished."""
        if not self.changed:
            return []
        self.changed = False
        live_W = self.ledger.live_W
        counts_W = live_W if live_W.any() else np.ones(len(live_W), np.bool_)
        delivered_WS = (self.done_WS > self.open_S) & counts_W[:, None]
        delivered_S = delivered_WS.sum(axis=0)
        quorum = self.gather.quorum
        complete_S = delivered_S >= quorum
        self.least = quorum - int(delivered_S[~complete_S].max(initial=0))
        if not self.by_clock and self.resting_W.any():  # no more than those who do not rest can be waited for
            awaited_WS = (counts_W & ~self.resting_W)[:, None] & ~delivered_WS
            complete_S |= (delivered_S > 0) & ~awaited_WS.any(axis=0)
            self.least = 0
        free_S = (self.open_S == self.ledger.version_S) & self.ledger.ready_S
        return [self._start(i) for i in (complete_S & free_S).nonzero()[0].tolist()]

    def applied(self, commit: Commit) -> list[Refused]:
        """The commit is in the ledger; what came during it is settled now."""
        self.changed = True
        late, self.late[commit.slice] = self.late[commit.slice], []
        return [Refused(worker, commit.slice, seq, commit.version) for worker, seq in late]

    def discard(self, worker: int) -> Int64:
        """Forgets what the worker pushed in rounds it has not finished; returns per slice the last number kept."""
        kept_S: Int64 = self.admitted_WS[worker]
        for index, rounds in enumerate(self.rounds):
            for number, entries in rounds.items():
                if number >= self.done_WS[worker, index]:
                    kept_S[index] -= len(entries.pop(worker, ()))
        return kept_S.copy()

    def ahead(self, worker: int) -> list[tuple[int, int]]:
        """None: what a worker has not finished was discarded, or is gathered under its finished clock."""
        return []

    def rest(self, worker: int, resting: bool) -> None:
        """The worker waits for others and pushes nothing meanwhile, or goes on."""
        self.resting_W[worker] = resting
        self.changed = True

    def joining_clock_S(self) -> Int64:
        """The clock that a joiner has on each slice: it takes part from the open round on."""
        return self._begin_S(self.open_S)

    def join(self, worker: int) -> None:
        self.done_WS[worker] = np.maximum(self.done_WS[worker], self.open_S)  # what it had finished stays
        self.resting_W[worker] = False
        self.changed = True

    def _start(self, index: int) -> Commit:
        number, begin = int(self.open_S[index]), int(self._begin_S(self.open_S)[index])
        self.open_S[index] += 1
        entries = self.rounds[index].pop(number, {})
        finished = (self.done_WS[:, index] > number).nonzero()[0].tolist()
        pushes = tuple(push for w in finished for push in entries.pop(w, ()))
        late = tuple((w, push.seq) for w in sorted(entries) for push in entries[w])
        return Commit(
            slice=index,
            version=number + 1,
            lr=self.lr(begin),
            number=int(self.ledger.number_S[index]) + bool(pushes),
            staleness=0,
            base=number,
            contributions=pushes,
            finished=tuple(finished),
            clock=int(self._begin_S(self.open_S)[index]),
            late=late,
        )
