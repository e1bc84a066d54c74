"""Gradient descent with a heavy ball."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps import kernels
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Momentum(Optimizer):
    """v <- decay * v + g; w <- w - lr * v, with g <- g + weight_decay * w first (Polyak, 1964; the form of PyTorch).

    Shapes: all (n,). A velocity decays once per commit: where P workers commit one by one, decay ** (1 / P) keeps its
    reach. Asynchrony itself acts as momentum 1 - 1 / P, so the best `decay` falls with P, even below zero (Mitliagkas
    et al., Allerton 2016).
    """

    decay: Annotated[float, Field(gt=-1, lt=1)] = 0.9

    STATE = ("velocity",)

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        kernels.momentum(w_N, grad_N, state[0], out_N, step.lr, step.weight_decay, self.decay)
