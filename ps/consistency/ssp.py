"""Stale synchronous parallel: workers may run ahead of the slowest by a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps.consistency.base import Cadence, Consistency, OnArrival
from ps.types import Bool, Int64


@dataclass(frozen=True)
class StaleSynchronous(Consistency):
    """At each read, reader clock - min finished clock <= staleness (Ho et al., NIPS 2013, section 3).

    0 is not `bsp`: pushes still commit one by one, and a read may see newer ones. A large bound never blocks.
    """

    staleness: Annotated[int, Field(ge=0)]  # clocks

    @property
    def cadence(self) -> Cadence:
        return Cadence(lazy=True)

    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return clock_E - min_clock_E <= self.staleness

    def commit(self, live: int) -> OnArrival:
        return OnArrival(rate=1 / live)
