"""The exchange under way while a worker steps on: asked for when its round ends, taken in some clocks later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ps.types import Array
from ps.worker.pulling import PullFuture

if TYPE_CHECKING:
    from ps.worker.runtime import Worker


class Ahead:
    """At most one: it is over before the next begins. When values arrive changes nothing; they enter at their clock."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._pull: PullFuture | None = None
        self._due = 0  # clock
        self._arrived: dict[int, Array] = {}  # by slice

    def begin(self, timeout_s: float) -> None:
        """Asks for what becomes of the slices whose round has just ended."""
        session = self._worker.session
        ids = session.ended
        if session.model.cadence.overlap and len(ids):
            self._arrived = {}
            entry = self._worker.ask_for(ids, {}, self._arrived)
            self._pull = PullFuture(self._worker, entry, {}, timeout_s)
            self._due = session.clock + session.model.cadence.overlap

    def take_in(self, timeout_s: float) -> None:
        """Waits for what is due by the end of this clock, and mixes it into the replica. Raises: DeadlineError."""
        if self._pull is not None and self._worker.session.clock + 1 >= self._due:
            self._pull.result(timeout_s)
            self._pull = None
            for slice_id, values_N in self._arrived.items():
                self._worker.arrays.store(slice_id, values_N)
            self._arrived = {}

    def end(self) -> None:
        """What is still to come is not taken any more."""
        if self._pull is not None:
            self._pull.end()
            self._pull = None
