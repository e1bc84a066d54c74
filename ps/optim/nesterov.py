"""Nesterov's momentum, also the outer optimizer of DiLoCo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps import kernels
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Nesterov(Optimizer):
    """v <- decay * v + g; w <- w - lr * (g + decay * v), with g <- g + weight_decay * w first.

    Shapes: all (n,). The form of PyTorch (Nesterov, 1983; Sutskever et al., ICML 2013). With lr = 0.7, decay = 0.9 and
    g = theta - theta_k it is the outer step of DiLoCo (Douillard et al., 2023), whose gain is lr / (1 - decay) = 7.
    """

    decay: Annotated[float, Field(gt=-1, lt=1)] = 0.9

    STATE = ("velocity",)

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        kernels.nesterov(w_N, grad_N, state[0], out_N, step.lr, step.weight_decay, self.decay)
