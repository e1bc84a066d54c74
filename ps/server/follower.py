"""A follower: the primary's log, replayed. Same records, same bytes."""

from __future__ import annotations

from collections.abc import Sequence

from ps.compression.choice import Frame
from ps.keyspace import Slice
from ps.optim import optimizer
from ps.server.ledger import Added, Adopted, Commit, Initialised, Ledger, Record, Sent
from ps.server.values import Values
from ps.types import Array


class Follower:
    """Ledger and values fed with ordered records; decides nothing."""

    def __init__(self, workers: int, values: Values) -> None:
        self.ledger = Ledger(workers)
        self.values = values

    def feed(
        self, record: Record, payload: Sequence[Array], slices: Sequence[Slice] = (), frames: Sequence[Frame] = ()
    ) -> None:
        """One record and what travels beside it: the gradient of a commit, the values of an Initialised.

        `slices` describe the new ones of an Added. frames: what a commit took, from which its gradient is combined.
        """
        match record:
            case Adopted(spec):
                self.values.optimizer = optimizer(spec)
            case Added():
                self.values.add(slices)
            case Initialised(indices):
                for index, initial_N in zip(indices, payload, strict=True):
                    self.values.store(int(index), initial_N)
            case Commit() if frames:
                self.values.commit(record, frames)
            case Commit():
                self.values.step(record, payload[0] if payload else None)
            case Sent(worker, indices):
                for index in indices:
                    self.values.remember(worker, int(index))
            case _:
                pass
        self.ledger.apply(record)
