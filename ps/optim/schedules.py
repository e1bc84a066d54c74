"""How the learning rate changes with the finished clocks: a factor on `lr`, decided by the shard at each commit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps import kernels


@dataclass(frozen=True)
class Schedule(ABC):
    """1/warmup, 2/warmup, ... 1 over the first `warmup` clocks, then the subclass's `decayed` from its own clock 0."""

    warmup: Annotated[int, Field(ge=0)] = 0  # clocks

    def factor(self, clock: int) -> float:
        """What lr is multiplied by when the slowest worker has finished `clock` clocks."""
        if clock < self.warmup:
            return (clock + 1) / self.warmup
        return self.decayed(clock - self.warmup)

    @abstractmethod
    def decayed(self, clock: int) -> float:
        """The factor `clock` clocks after the warm-up; 1 at 0."""


@dataclass(frozen=True)
class Constant(Schedule):
    """1."""

    def decayed(self, clock: int) -> float:
        """Always 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class StepDecay(Schedule):
    """decay ** floor(clock / every)."""

    every: Annotated[int, Field(ge=1)]  # clocks
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1

    def decayed(self, clock: int) -> float:
        """Falls by `decay` at every `every`-th clock."""
        return kernels.power(self.decay, clock // self.every)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """floor + (1 - floor) * (1 + cos(pi * clock / clocks)) / 2, then floor (Loshchilov & Hutter, ICLR 2017)."""

    clocks: Annotated[int, Field(ge=1)]  # from the end of the warm-up to the floor
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0

    def decayed(self, clock: int) -> float:
        """From 1 to `floor` along half a cosine."""
        if clock >= self.clocks:
            return self.floor
        return self.floor + (1.0 - self.floor) * (0.5 + 0.5 * math.cos(math.pi * clock / self.clocks))


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """1 / sqrt(clock + 1) (Zinkevich, ICML 2003; the rate in the regret bound of SSP)."""

    def decayed(self, clock: int) -> float:
        """Falls like one over the root."""
        return 1.0 / math.sqrt(clock + 1)
