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

    The round of a push: `by="clock"` its clock // `clocks` (every live worker takes part in every round);
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
    `lazy`: a pull is served from the worker's cache while the gate is open for the cached copy.
    """

    push_every: int = 1
    pull_every: int = 1
    carries: Literal["gradient", "delta"] = "gradient"
    local_lr: float | None = None
    elastic: float | None = None
    lazy: bool = False

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

        clock_E: the worker's clock on each slice; min_clock_E: the least clock finished by all live workers;
        version_E: commits of each slice; first: this worker is the lowest live rank.
        """

    @abstractmethod
    def commit(self, live: int) -> OnArrival | Gather:
        """What happens to a push while `live` workers (>= 1) take part."""
