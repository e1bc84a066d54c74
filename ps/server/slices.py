"""Which slices live here: the keyspace of the job, and this shard's part of it."""

from __future__ import annotations

import numpy as np

from ps.errors import ConfigError, PeerError
from ps.keyspace import Keyspace
from ps.messages import Place, Placed
from ps.optim import optimizer
from ps.server.actions import Send
from ps.server.desk import Desk
from ps.server.ledger import Added, Adopted
from ps.server.rounds import Rounds
from ps.types import CONTROLLER, Int64


class Slices:
    """Ids are the cluster's, local indices this shard's own."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.keyspace = Keyspace()
        self.epoch = 0
        self.nbytes_S: Int64 = np.empty(0, np.int64)
        self.local_of: Int64 = np.empty(0, np.int64)  # slice id -> local index, -1: elsewhere

    def place(self, place: Place) -> None:
        """A batch of parameters, or the part of it that lives here."""
        if place.epoch > self.epoch:
            try:
                ids = self.keyspace.extend([spec.parameter() for spec in place.specs])
            except ConfigError as error:
                raise PeerError(f"controller: {error}") from None
            if len(ids) != len(place.shard_E):
                raise PeerError(f"placement map: expected {len(ids)} new slices, got {len(place.shard_E)}")
            self.epoch = place.epoch
            if place.optimizer and not place.batch:
                self.desk.optimizer = optimizer(place.optimizer)
                self.desk.record(Adopted(place.optimizer))
            self._add_slices(np.flatnonzero(place.shard_E == self.desk.shard) + ids.start)
        self.desk.actions.append(Send(CONTROLLER, Placed(self.desk.shard, self.epoch)))

    def _add_slices(self, ids: Int64) -> None:
        first, count = len(self.desk.ledger.ids_S), len(ids)
        clock_W = np.array([member.clock for member in self.desk.members], np.int64)
        version_E, clock_WE = self.desk.engine.start_of_new(ids, clock_W)
        self.desk.record(Added(ids, version_E, tuple(clock_WE)))
        self.desk.engine.add_slices(count)
        nbytes = np.array([self.keyspace.slices[i].nbytes for i in ids.tolist()], np.int64)
        self.nbytes_S = np.concatenate((self.nbytes_S, nbytes))
        self.local_of = np.full(len(self.keyspace.slices), -1)
        self.local_of[self.desk.ledger.ids_S] = np.arange(first + count)
        none = np.zeros(count, np.int64)
        for worker, member in enumerate(self.desk.members):
            for tick in member.ticks:  # nothing was pushed on the new slices: closed there
                tick.seq_S, tick.base_S = np.concatenate((tick.seq_S, none)), np.concatenate((tick.base_S, none))
                tick.closed_S = np.concatenate((tick.closed_S, none == 0))
            if member.clock and isinstance(self.desk.engine, Rounds) and self.desk.engine.by_clock:
                self.desk.engine.finish(worker, np.arange(first, first + count), member.clock, none)

    def local(self, slice_E: Int64) -> Int64:
        """Local indices. Raises: PeerError for a slice that does not live here."""
        try:
            index_E: Int64 = self.local_of[slice_E]
        except IndexError:
            wrong = int(slice_E.max())
            raise PeerError(
                f"slice {wrong}: expected one below {len(self.local_of)}; fetch the placement map"
            ) from None
        if -1 in index_E.tolist():
            wrong = int(slice_E[index_E < 0][0])
            raise PeerError(
                f"slice {wrong}: it does not live on shard {self.desk.shard}; fetch placement map {self.epoch}"
            )
        return index_E
