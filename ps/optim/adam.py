"""Adam: momentum over a rate per element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ps import kernels
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Adam(Optimizer):
    """m <- beta1 * m + (1 - beta1) * g; v <- beta2 * v + (1 - beta2) * g * g, with g <- g + weight_decay * w first;
    w <- w - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).

    Shapes: all (n,). t counts the commits of the slice, so the first step moves by about lr * sign(g). Source: Kingma &
    Ba, ICLR 2015. Where P workers commit one by one the betas look back P times less far: raise them, or gather.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Annotated[float, Field(ge=1e-30, allow_inf_nan=False)] = 1e-8  # float32 holds the smallest, too

    STATE = ("mean", "mean_square")
    DECOUPLED: ClassVar[bool] = False  # weight decay enters the gradient

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        mean_N, mean_square_N = state
        correction1 = 1.0 - kernels.power(self.beta1, step.number)
        correction2 = 1.0 - kernels.power(self.beta2, step.number)
        kernels.adam(
            w_N, grad_N, mean_N, mean_square_N, out_N, step.lr, step.weight_decay, self.DECOUPLED,
            self.beta1, self.beta2, self.eps, correction1, correction2,
        )  # fmt: skip
