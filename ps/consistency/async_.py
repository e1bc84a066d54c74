"""Asynchronous SGD, plain and in DistBelief's Downpour form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from ps.consistency.base import Cadence, Consistency, OnArrival
from ps.types import Bool, Int64


@dataclass(frozen=True)
class Asynchronous(Consistency):
    """Nobody waits for anybody; every push commits on arrival (Dean et al., NIPS 2012, section 4.1)."""

    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return np.ones(len(version_E), np.bool_)

    def commit(self, live: int) -> OnArrival:
        return OnArrival(rate=1 / live)


@dataclass(frozen=True)
class Downpour(Asynchronous):
    """Fetches every `pull_every` clocks, pushes the sum of its gradients every `push_every` clocks.

    Between fetches the replica steps by `local_lr` (Dean et al., NIPS 2012, section 4.1). Warm start: until a slice
    has `warm_start` commits only the first live worker reads it, the others wait at their first clock.
    """

    push_every: Annotated[int, Field(ge=1)] = 1  # clocks
    pull_every: Annotated[int, Field(ge=1)] = 1  # clocks
    local_lr: Annotated[float, Field(ge=0)] = 0.0
    warm_start: Annotated[int, Field(ge=0)] = 0  # commits

    @property
    def cadence(self) -> Cadence:
        return Cadence(self.push_every, self.pull_every, local_lr=self.local_lr)

    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return first | (version_E >= self.warm_start)
