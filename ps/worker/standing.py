"""Where a worker stands: its clock, and of each slice what it has pushed, which version it holds, what is due next.

S: all registered slices by id; E: some of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from ps.compression.choice import Codecs
from ps.config import RunConfig
from ps.consistency import Consistency, Gather
from ps.keyspace import Parameter
from ps.messages import RAW, SAME, Values, Welcome
from ps.optim.sgd import Sgd
from ps.types import Bool, Clock, Int64


def knows_updates(config: RunConfig, parameters: Iterable[Parameter] = ()) -> bool:
    """A push of these parameters changes the worker's replica as it changes the values, before they are pulled: a pull
    may then be served from the replica."""
    rule = config.rule()
    plain = type(rule) is Sgd and rule.weight_decay == 0 and config.clip_value is None
    exact = config.codecs() == Codecs() and all(p.options.push_compression in (None, "none") for p in parameters)
    return config.model().cadence.lazy and plain and exact


class Standing:
    """What the consistency model says of it: which clocks travel, which slices a pull has to fetch."""

    def __init__(self, model: Consistency, shards: int, overlays: bool) -> None:
        self.model, self.shards = model, shards
        self.overlays = overlays  # the replica can be stepped exactly like the server does: own writes are in it
        self.steps_locally = model.cadence.local_lr is not None
        self.clock = Clock(0)
        self.told = Clock(0)  # the clock that shards know of: a tick off-cadence does not travel
        self.shard_S: Int64 = np.empty(0, np.int64)
        self.ids_of: list[Int64] = [self.shard_S] * shards  # the slices of each shard
        self.shard_of: list[int] = []  # as shard_S
        self.nbytes_S: Int64 = np.empty(0, np.int64)
        self.seq_S: Int64 = np.empty(0, np.int64)  # last push number given out
        self.base_S: Int64 = np.empty(0, np.int64)  # version of the values in hand
        self.min_clock_S: Int64 = np.empty(0, np.int64)
        self.mark_S: Int64 = np.empty(0, np.int64)  # of the view in hand, where pulls are compressed; 0: none
        self.steps = model.cadence.stretch  # of this worker between exchanges; fewer where others are faster
        self.shift_S: Int64 = np.empty(0, np.int64)  # clocks by which a slice's rounds are ahead
        self.round_S: Int64 = np.empty(0, np.int64)  # for local steps: round of pull_every clocks of its pull
        self.cached_S: Bool = np.empty(0, np.bool_)  # values were pulled
        self.wrote_S: Bool = np.empty(0, np.bool_)  # pushed since the last pull
        self.finished_S: Int64 = np.empty(0, np.int64)  # clocks finished by an earlier incarnation
        self.ahead: Counter[tuple[int, int]] = Counter()  # (slice, clock) -> pushes an earlier incarnation got applied
        self.welcomed: dict[int, Welcome] = {}  # shard -> where it says that this worker stands

    # ---- slices -----------------------------------------------------------------------------------------------------

    @property
    def by_version(self) -> bool:
        """Rounds are versions: a push belongs to no clock."""
        decision = self.model.commit(1)
        return isinstance(decision, Gather) and decision.by == "version"

    def place(self, shard_S: Int64, nbytes_S: Int64) -> None:
        """New slices at the end of the list: where they live, and their size in bytes."""
        first, count = len(self.shard_S), len(shard_S)
        self.shard_S = np.concatenate((self.shard_S, shard_S))
        self.shard_of = self.shard_S.tolist()
        self.ids_of = [np.flatnonzero(self.shard_S == shard) for shard in range(self.shards)]
        self.nbytes_S = np.concatenate((self.nbytes_S, nbytes_S))
        zeros = np.zeros(count, np.int64)
        for name in ("seq_S", "base_S", "min_clock_S", "mark_S", "finished_S"):
            setattr(self, name, np.concatenate((getattr(self, name), zeros)))
        self.round_S = np.concatenate((self.round_S, zeros - 1))
        self.shift_S = self.model.cadence.shift_E(np.arange(first + count))
        for name in ("cached_S", "wrote_S"):
            setattr(self, name, np.concatenate((getattr(self, name), zeros.astype(np.bool_))))
        for welcome in self.welcomed.values():  # an earlier incarnation may have been here
            mine = (welcome.slice_E >= first) & (welcome.slice_E < first + count)
            self.seq_S[welcome.slice_E[mine]] = welcome.seq_E[mine]
            if not (welcome.joined or self.by_version):
                self.finished_S[welcome.slice_E[mine]] = welcome.clock_E[mine]

    # ---- what travels -----------------------------------------------------------------------------------------------

    @property
    def push_travels(self) -> bool:
        """What was pushed in this round leaves the worker with this clock; else it is accumulated."""
        return self.clock % self.model.cadence.stretch + 1 >= self.steps

    def ends_E(self, slice_ids: Int64) -> Bool:
        """Of these slices those whose round ends with this clock."""
        ends_E: Bool = (self.clock + 1 + self.shift_S[slice_ids]) % self.model.cadence.push_every == 0
        return ends_E

    @property
    def pull_travels(self) -> bool:
        """A pull after this clock fetches values, however fresh the worker's own are."""
        cadence = self.model.cadence
        ends = cadence.carries == "delta" and self.push_travels
        return ends or (self.clock + 1 - cadence.overlap) % (cadence.pull_every // cadence.fragments) == 0

    @property
    def ended(self) -> Int64:
        """The slices in hand whose round has ended with the last clock."""
        ends_S = (self.clock + self.shift_S) % self.model.cadence.push_every == 0
        return np.flatnonzero(ends_S & self.cached_S)

    def travelling(self, slice_ids: Int64) -> Int64:
        """Of these slices the ones that a pull has to fetch now; the others are served from the replica."""
        cadence = self.model.cadence
        if cadence.elastic is not None or cadence.overlap:
            return slice_ids[~self.cached_S[slice_ids]]
        if self.steps_locally:  # once per round: a second fetch would undo the local steps
            fetched_E: Bool = self.round_S[slice_ids] == self._round_E(slice_ids)
            return slice_ids[~fetched_E]
        if not cadence.lazy:
            return slice_ids
        clock_E = np.full(len(slice_ids), self.clock)
        usable_E = self.model.gate(clock_E, self.min_clock_S[slice_ids], self.base_S[slice_ids], False)
        usable_E &= self.cached_S[slice_ids]
        if not self.overlays:
            usable_E &= ~self.wrote_S[slice_ids]
        return slice_ids[~usable_E]

    def _round_E(self, slice_ids: Int64) -> Int64:
        """The round between pulls in which each slice is."""
        round_E: Int64 = (self.clock + self.shift_S[slice_ids]) // self.model.cadence.pull_every
        return round_E

    def skip_to_travelling_clock(self) -> None:
        """Nothing more is computed before the next exchange: the clock that ends with it is the next to be finished."""
        stretch = self.model.cadence.stretch
        self.clock = Clock(self.clock - self.clock % stretch + stretch - 1)

    def follows(self, message: Values) -> bool:
        """Every frame takes the view in hand to the next mark."""
        if not len(message.mark_K):
            return True
        whole_E, same_E = message.codec_K == RAW, message.codec_K == SAME
        mark_E = self.mark_S[message.slice_E] + ~same_E
        return bool((whole_E | (mark_E == message.mark_K)).all())

    # ---- an earlier incarnation -------------------------------------------------------------------------------------

    @property
    def repeats(self) -> bool:
        """Pushes of this clock may be left out: an earlier incarnation has begun it, and closed it on some slices."""
        begun = any(count > 0 and clock >= self.clock for (_, clock), count in self.ahead.items())
        return begun or bool((self.finished_S > self.clock).any())

    def _is_repeated(self, slice_id: int) -> bool:
        """An earlier incarnation's push of this clock was applied in this one's place."""
        repeated = self.ahead[slice_id, self.clock] > 0
        if repeated:
            self.ahead[slice_id, self.clock] -= 1
        return repeated

    def last_exchange(self) -> Clock:
        """The clock after the last exchange that all slices have seen, once every shard has said where it stands."""
        cadence, clock = self.model.cadence, max(int(w.clock) for w in self.welcomed.values())
        for w in self.welcomed.values():
            shift_E = cadence.shift_E(w.slice_E)
            end_E = (
                (w.clock_E + shift_E) // cadence.push_every + 1
            ) * cadence.push_every - shift_E  # of the open round
            clock = int(end_E.min(initial=clock + cadence.stretch)) - cadence.stretch
        return Clock(clock - clock % cadence.stretch)
