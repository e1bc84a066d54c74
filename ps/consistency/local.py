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
    DiLoCo's outer step (Douillard et al., arXiv 2311.08105). every=1 and plain steps equal `bsp`.
    """

    local_lr: Annotated[float, Field(ge=0)] = 0.0  # the worker's own rate; 0: the script steps (`Client.step_to`)
    every: Annotated[int, Field(ge=1)] = 20  # clocks between exchanges (H)

    @property
    def cadence(self) -> Cadence:
        return Cadence(self.every, self.every, carries="delta", local_lr=self.local_lr)

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
