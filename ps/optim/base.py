"""What every server optimizer is: a frozen dataclass with one in-place, element-wise update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ps.types import Float


@dataclass(frozen=True, slots=True)
class Step:
    """The scalars of one commit on one slice, decided by the shard and carried in its event.

    `lr` has the schedule, 1/live workers and the slice's lr_scale in it. `number` counts the steps of this slice from
    1 (Adam's t). `staleness` in commits. `base_N` are the values that the gradient was computed on, where the
    optimizer asks for them (NEEDS_BASE), else None.
    """

    lr: float
    weight_decay: float = 0.0
    number: int = 1
    staleness: int = 0
    base_N: Float | None = None


@dataclass(frozen=True)
class Optimizer(ABC):
    """One server optimizer. Element-wise, so any slicing gives the same bytes; float32 or float64 throughout.

    `lr` is the rate for one mean gradient of all workers per clock. `weight_decay` may be replaced per parameter.
    """

    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0

    PER_CLOCK: ClassVar[bool] = False  # it counts commits as clocks: one commit per clock, of gradients
    IMPLIES: ClassVar[str] = "none"  # the codec of both directions, where the run names none; {option} is filled in
    STATE: ClassVar[tuple[str, ...]] = ()  # names of the state arrays; each as long as the slice, zero at first
    TAKES: ClassVar[Literal["mean", "sum"]] = "mean"  # of the weighted gradients of one commit

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the state arrays of this instance; a wrapper adds its own to those of what it wraps."""
        return self.STATE

    @property
    def needs_base(self) -> bool:
        """True when `update` wants Step.base_N: the server then keeps what it last sent to each worker."""
        return False

    @abstractmethod
    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit. Writes the new values into `out_N` (which may be `w_N`) and the new state in place.

        All arrays are flat, of equal length n >= 0 and one dtype; `grad_N` is read-only.
        """
