"""A rate per element that follows the recent squared gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps import kernels
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Rmsprop(Optimizer):
    """G <- decay * G + (1 - decay) * g * g; w <- w - lr * g / (sqrt(G) + eps), with g <- g + weight_decay * w first.

    Shapes: all (n,). G is not corrected for its start at zero. Source: Tieleman & Hinton, Coursera lecture 6.5, 2012.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    eps: Annotated[float, Field(ge=1e-30, allow_inf_nan=False)] = 1e-8  # float32 holds the smallest, too

    STATE = ("mean_square",)

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        kernels.rmsprop(w_N, grad_N, state[0], out_N, step.lr, step.weight_decay, self.decay, self.eps)
