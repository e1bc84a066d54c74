"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ps import kernels
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Sgd(Optimizer):
    """w <- w - lr * (g + weight_decay * w) (Robbins & Monro, 1951). Shapes: all (n,). Stateless and additive."""

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        kernels.sgd(w_N, grad_N, out_N, step.lr, step.weight_decay)
