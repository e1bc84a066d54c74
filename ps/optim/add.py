"""No optimizer at all: pushes are summed into the values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ps import kernels
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Add(Optimizer):
    """w <- w + sum of weight_k * g_k. The push is an update, not a gradient: no learning rate, no weight decay.

    Shapes: all (n,). Element-wise, stateless. Source: the `Inc` of Ho et al., NIPS 2013.
    """

    TAKES: ClassVar[Literal["mean", "sum"]] = "sum"

    lr: float = field(default=1.0, init=False)
    weight_decay: float = field(default=0.0, init=False)

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit; `grad_N` is the weighted sum."""
        kernels.add(w_N, grad_N, out_N)
