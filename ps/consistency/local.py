"""Local SGD and DiLoCo: H steps alone, then a commit of what they moved: of all together, or of each on arrival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps.consistency.async_ import Asynchronous
from ps.consistency.base import Cadence, Consistency, Gather
from ps.types import Bool, Int64


@dataclass(frozen=True)
class LocalSteps(Consistency):
    """Each worker steps its replica `every` times, by `local_lr` or by itself, then pushes theta - theta_k.

    With server optimizer `sgd:lr=1` that is model averaging (Stich, ICLR 2019); with `nesterov:lr=0.7,decay=0.9` it is
    DiLoCo's outer step (Douillard et al., arXiv 2311.08105). every=1 and plain steps equal `bsp`. fragments > 1 is
    Streaming DiLoCo (Douillard et al., arXiv 2501.18512): slices take turns, fragment p ends its rounds at the clocks c
    with (c - p * every / fragments) % every == 0, so a fragment's part of the bytes travels at a time. overlap > 0: the
    worker steps on meanwhile, and takes in mix * its own values + (1 - mix) * the servers' so many clocks later.
    """

    local_lr: Annotated[float, Field(ge=0)] = 0.0  # the worker's own rate; 0: the script steps (`Client.step_to`)
    every: Annotated[int, Field(ge=1)] = 20  # clocks between exchanges of a slice (H)
    fragments: Annotated[int, Field(ge=1)] = 1  # of all slices, which take turns
    overlap: Annotated[int, Field(ge=0)] = 0  # clocks that an exchange may take while the worker steps on
    mix: Annotated[float | None, Field(ge=0, lt=1)] = None  # None: 0 without overlap, else 0.5

    def __post_init__(self) -> None:
        if self.every % self.fragments:
            raise ValueError(
                f"fragments: expected a divisor of every={self.every}, so that they take turns evenly, got "
                f"{self.fragments}"
            )
        if self.overlap and self.overlap >= self.cadence.stretch:
            raise ValueError(
                f"overlap: expected fewer clocks than the {self.cadence.stretch} between two exchanges (every / "
                f"fragments), got {self.overlap}"
            )

    @property
    def cadence(self) -> Cadence:
        mix = (0.5 if self.overlap else 0.0) if self.mix is None else self.mix
        return Cadence(
            self.every,
            self.every,
            carries="delta",
            local_lr=self.local_lr,
            fragments=self.fragments,
            overlap=self.overlap,
            mix=mix,
        )

    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return version_E >= clock_E // self.every

    def commit(self, live: int) -> Gather:
        return Gather(quorum=live, clocks=self.every)


@dataclass(frozen=True)
class AsyncLocalSteps(Asynchronous):
    """As `local`, but nobody waits: each worker pushes after `every` steps of its own, each push commits on arrival.

    With server optimizer `delayed_nesterov:lr=0.7,decay=0.9,period=WORKERS` that is asynchronous DiLoCo (Liu et al.,
    arXiv 2401.09135; its dynamic local updates: `ps.data.leased(balanced=True)`). One worker alone equals `local`.
    """

    local_lr: Annotated[float, Field(ge=0)] = 0.0  # the worker's own rate; 0: the script steps (`Client.step_to`)
    every: Annotated[int, Field(ge=1)] = 20  # clocks of a worker between its exchanges (H)

    @property
    def cadence(self) -> Cadence:
        return Cadence(self.every, self.every, carries="delta", local_lr=self.local_lr)
