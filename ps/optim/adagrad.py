"""A rate per element that falls with the squared gradients seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps import kernels
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """G <- G + g * g; w <- w - lr * g / (sqrt(G) + eps), with g <- g + weight_decay * w first.

    Shapes: all (n,). Source: Duchi, Hazan & Singer, JMLR 2011; on a server: Dean et al., NIPS 2012 (Downpour). G is a
    sum, so late and reordered gradients do little harm. In float32 g * g overflows above 1.8e19: clip by value.
    """

    eps: Annotated[float, Field(ge=1e-30, allow_inf_nan=False)] = 1e-10  # float32 holds the smallest, too

    STATE = ("square_sum",)

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        kernels.adagrad(w_N, grad_N, state[0], out_N, step.lr, step.weight_decay, self.eps)
