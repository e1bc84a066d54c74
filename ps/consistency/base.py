"""The three answers that a consistency model gives, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from ps.types import Bool, Int64


@dataclass(frozen=True, slots=True)
class OnArrival:
    """Every push is one commit, at once. `rate` multiplies the learning rate (1 / live workers)."""

    rate: float


@dataclass(frozen=True, slots=True)
class Gather:
    """Pushes of one round are gathered and committed as one aggregated step when `quorum` workers have finished it.

    The round of a push: `by="clock"` its slice's clock // `clocks` (every live worker takes part in every round);
    `by="version"` the version it was computed on (who comes too late is refused, and goes on from the newer version).
    """

    quorum: int
    by: Literal["clock", "version"] = "clock"
    clocks: int = 1  # clocks per round


@dataclass(frozen=True, slots=True)
class Cadence:
    """What travels when, in clocks. Off-cadence calls are answered from the worker's replica.

    `carries`: the accumulated `gradient`, or the `delta` (values at the last pull - replica now) that the server
    optimizer takes as a gradient. `local_lr` steps the replica at each push; None: no replica is kept.
    `elastic`: the replica is the worker's own for good; at the end of a round the values are pulled beside it, this
    share of (replica - values) is taken off the replica and is the delta, which the servers add.
    `fragments`: slices are dealt out to so many, in the order of registration; their rounds end one after the other,
    `stretch` clocks apart. `overlap`: clocks from the end of a round until its outcome is taken in, which is then
    asked for ahead. `mix`: share of the worker's own values in what it takes in.
    `lazy`: a pull is served from the worker's cache while the gate is open for the cached copy.
    """

    push_every: int = 1
    pull_every: int = 1
    carries: Literal["gradient", "delta"] = "gradient"
    local_lr: float | None = None
    elastic: float | None = None
    fragments: int = 1
    overlap: int = 0
    mix: float = 0.0
    lazy: bool = False

    @property
    def stretch(self) -> int:
        """Clocks between two exchanges of a worker: of a round, where all slices end theirs together."""
        return self.push_every // self.fragments

    def shift_E(self, slice_E: Int64) -> Int64:
        """How many clocks the rounds of these slices (by id) are ahead: clock c is in round (c + shift) // push_every.

        So fragment p (slices p, p + fragments, ...) ends rounds at clocks c with (c - p * stretch) % push_every = 0.
        """
        shift_E: Int64 = -(slice_E % self.fragments) * self.stretch % self.push_every
        return shift_E

    @property
    def accumulates(self) -> bool:
        """Pushes are summed on the worker (or are in its replica) and travel with a tick."""
        return self.push_every > 1 or self.carries == "delta"


@dataclass(frozen=True)
class Consistency(ABC):
    """One model. Pure; the same object answers on shards and workers."""

    @property
    def cadence(self) -> Cadence:
        """What travels when."""
        return Cadence()

    @abstractmethod
    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        """May this worker read these slices now?

        clock_E: the worker's clock on each slice, plus the shift of its rounds; min_clock_E: the least clock finished
        by all live workers; version_E: commits of each slice; first: this worker is the lowest live rank.
        """

    @abstractmethod
    def commit(self, live: int) -> OnArrival | Gather:
        """What happens to a push while `live` workers (>= 1) take part."""
