"""Workers slower than they are: how many times as long a step takes, by worker and clock, repeatable from the seed.

Spelled `transient:chance=0.05,factor=8`, `persistent:workers=1,factor=4`, `speeds:of=1/1/2/4`, `exponential`,
`pareto:alpha=3`, `none`, or `package.module:Class:key=value` for one's own; `a+b` multiplies both. A seed slows the
same steps under every model and in every world, so that runs can be compared in pairs. A law that may make a step
shorter (`exponential`, `pareto`, a factor below 1) needs `compute_s`: what a script computes cannot be made to take
less.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from random import Random
from typing import Annotated

from pydantic import Field

from ps.errors import ConfigError
from ps.plugins import build, split_chain


class Stragglers(ABC):
    """Who is slow, and when."""

    @abstractmethod
    def slowdown(self, rank: int, size: int, random: Random) -> float:
        """How many times as long a step of this worker takes, >= 0. random: of this seed, worker and clock alone."""

    @property
    def hastens(self) -> bool:
        """Whether that may be below 1, which only a step that is made to compute (`compute_s`) can be."""
        return False


@dataclass(frozen=True)
class Transient(Stragglers):
    """Each step of each worker is slow with this chance (Ho et al., SSP, NIPS 2013)."""

    chance: Annotated[float, Field(ge=0, le=1)] = 0.05
    factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0

    def slowdown(self, rank: int, size: int, random: Random) -> float:
        return self.factor if random.random() < self.chance else 1.0

    @property
    def hastens(self) -> bool:
        return self.factor < 1


@dataclass(frozen=True)
class Persistent(Stragglers):
    """The last `workers` workers are slow all the time."""

    workers: Annotated[int, Field(ge=0)] = 1
    factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 4.0

    def slowdown(self, rank: int, size: int, random: Random) -> float:
        return self.factor if rank >= size - self.workers else 1.0

    @property
    def hastens(self) -> bool:
        return self.factor < 1


@dataclass(frozen=True, kw_only=True)
class Speeds(Stragglers):
    """Steps per time of each worker in turn; the fastest is as fast as it is. More workers begin at the first again."""

    of: Annotated[str, Field(pattern=r"^\d*\.?\d+(/\d*\.?\d+)*$")]

    def __post_init__(self) -> None:
        if min(self._speeds) <= 0:
            raise ValueError(f"of: expected speeds > 0 as in 1/1/2/4, got {self.of!r}")

    @property
    def _speeds(self) -> list[float]:
        return [float(speed) for speed in self.of.split("/")]

    def slowdown(self, rank: int, size: int, random: Random) -> float:
        speeds = self._speeds
        return max(speeds) / speeds[rank % len(speeds)]


@dataclass(frozen=True)
class Exponential(Stragglers):
    """`floor` of the time is fixed, the rest exponential, with mean 1 in all (Chen et al., arXiv 1604.00981)."""

    floor: Annotated[float, Field(ge=0, le=1)] = 0.0

    def slowdown(self, rank: int, size: int, random: Random) -> float:
        return self.floor + (1 - self.floor) * random.expovariate(1.0)

    @property
    def hastens(self) -> bool:
        return self.floor < 1


@dataclass(frozen=True)
class Pareto(Stragglers):
    """A heavy tail: P(time > x) = (least / x)^alpha, with mean 1; alpha <= 2 has no variance."""

    alpha: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3.0

    def slowdown(self, rank: int, size: int, random: Random) -> float:
        return random.paretovariate(self.alpha) * (self.alpha - 1) / self.alpha

    @property
    def hastens(self) -> bool:
        return True


@dataclass(frozen=True)
class Nobody(Stragglers):
    """All are as fast as they are."""

    def slowdown(self, rank: int, size: int, random: Random) -> float:
        return 1.0


STRAGGLERS: dict[str, type[Stragglers]] = {
    "transient": Transient,
    "persistent": Persistent,
    "speeds": Speeds,
    "exponential": Exponential,
    "pareto": Pareto,
    "none": Nobody,
}


@dataclass(frozen=True)
class Slowdowns:
    """All of a run's stragglers."""

    parts: tuple[Stragglers, ...] = ()
    seed: int = 0

    def of(self, rank: int, size: int, clock: int) -> float:
        """How many times as long the step of this worker in this clock takes."""
        if not self.parts:
            return 1.0
        random = Random(f"{self.seed} {rank} {clock}")
        return prod(part.slowdown(rank, size, random) for part in self.parts)


def slowdowns(spec: str | None, seed: int = 0) -> Slowdowns:
    """What `spec` spells; None: nobody is slow. Raises: ConfigError naming what is wrong and what is known."""
    parts = [build("stragglers", STRAGGLERS, part) for part in split_chain(spec or "") if part]
    for part in parts:
        if not isinstance(part, Stragglers):
            raise ConfigError(f"stragglers: expected a subclass of ps.stragglers.Stragglers, got {spec!r}")
    return Slowdowns(tuple(parts), seed)
