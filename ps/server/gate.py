"""Who may read now, at which version, and for whom the others wait."""

from __future__ import annotations

import numpy as np

from ps.consistency import Consistency
from ps.messages import Pull, Waiting
from ps.server.arrivals import Arrivals
from ps.server.ledger import Ledger
from ps.server.members import Member
from ps.server.rounds import Rounds
from ps.types import NOBODY, Bool, Int64, WorkerId


class Gate:
    """Asks the model, after the rules that hold under every model. index_E: slices of a pull by local index."""

    def __init__(
        self, ledger: Ledger, engine: Rounds | Arrivals, model: Consistency, members: list[Member], keep_versions: bool
    ) -> None:
        self.ledger, self.engine, self.model, self.members = ledger, engine, model, members
        self.by_clock = isinstance(engine, Rounds) and engine.by_clock
        # Of rounds that other shards may not have committed: a crashed worker pulls them when it comes back.
        self.keep_versions = keep_versions and self.by_clock
        self.oldest_kept = 0  # clock

    def readable_E(self, pull: Pull, index_E: Int64, seq_E: Int64) -> Bool:
        """Values are there, the worker's own ticks and pushes before it are in, and the model lets it through."""
        ready_E: Bool = self.engine.prefix_S(pull.worker)[index_E] >= seq_E
        if self.ledger.unready:
            ready_E &= self.ledger.ready_S[index_E]
        for tick in self.members[pull.worker].ticks:
            ready_E &= tick.closed_S[index_E]
        if pull.late and isinstance(self.engine, Rounds) and not self.by_clock:
            return ready_E  # others may wait for what it pushes next
        return ready_E & self._open_E(pull, index_E)

    def version_E(self, index_E: Int64, clock: int) -> Int64 | None:
        """The versions that a worker at this clock reads; None: a late copy asks, nobody who lives waits for it."""
        version_E: Int64 = self.ledger.version_S[index_E]
        if isinstance(self.engine, Rounds) and self.keep_versions:
            exact_E = self.engine.version_E(index_E, clock)  # one worker's clock is one version, everywhere
            if (version_E > exact_E).any():
                return np.minimum(version_E, exact_E) if clock >= self.oldest_kept else None
        return version_E

    def why_waiting(self, pull: Pull, index_E: Int64, now: float) -> Waiting:
        """For whom a parked pull waits: the initial values (-1), the worker itself, or the one that is behind."""
        ready_E = self.ledger.ready_S[index_E]
        if not ready_E.all():
            return Waiting(pull.id, int(pull.slice_E[~ready_E][0]), NOBODY, 0, 0.0)
        closed_E = ~self._open_E(pull, index_E)
        if not closed_E.any():
            some = int(pull.slice_E.max(initial=-1))
            return Waiting(pull.id, some, pull.worker, self.members[pull.worker].clock, 0.0)
        place = int(np.argmax(closed_E))
        clock_W = np.array([self.engine.clock_S(w)[index_E[place]] for w in range(len(self.members))])
        behind = int(np.argmin(np.where(self.ledger.live_W, clock_W, 2**62)))
        heard = self.members[behind].heard
        silent_s = now - heard if heard >= 0 else -1.0
        return Waiting(pull.id, int(pull.slice_E[place]), WorkerId(behind), int(clock_W[behind]), silent_s)

    def _open_E(self, pull: Pull, index_E: Int64) -> Bool:
        clock_E = self.engine.gate_clock_E(pull.worker, index_E, pull.clock)
        first = pull.worker == self.ledger.first_live
        min_clock_E = self.ledger.min_clock_S()[index_E]
        return self.model.gate(clock_E, min_clock_E, self.ledger.version_S[index_E], first)
