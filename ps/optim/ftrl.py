"""FTRL-proximal: Adagrad that holds rarely needed weights at exactly zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps import kernels
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Ftrl(Optimizer):
    """Follow the regularised leader, per coordinate (McMahan et al., KDD 2013), with lr as the paper's alpha:

    z <- z + lr * g - (sqrt(q + g * g) - sqrt(q)) * w;  q <- q + g * g
    w <- 0 where |z| <= lr * l1, else -(z - sign(z) * lr * l1) / (beta + sqrt(q) + lr * l2)

    Shapes: all (n,). w is the server's current value, however old g is: then l1 = l2 = 0 is exactly Adagrad,
    w <- w - lr * g / (beta + sqrt(q)).

    z is alpha times the paper's z: the same values while the rate is constant. A schedule, 1 / live or a staleness
    factor then scales the new gradient only; in the paper's scale a smaller alpha would shrink w even where g = 0.
    For the same reason the thresholds use this optimizer's own `lr`, not the rate of the commit.

    Start: with q = 0 the closed form gives back the registered w, for w != 0, from z = -(beta + lr * l2) * w -
    sign(w) * lr * l1: sign(z) = -sign(w), |z| > lr * l1, and z - sign(z) * lr * l1 = -(beta + lr * l2) * w. For w = 0
    that is z = 0. So step 1 sets z so. As w is derived anew at each commit, g = 0 keeps it only to rounding.
    """

    beta: Annotated[float, Field(ge=1e-30, allow_inf_nan=False)] = 1.0
    l1: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    l2: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    STATE = ("z", "q")

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        z_N, q_N = state
        threshold, ridge = self.lr * self.l1, self.beta + self.lr * self.l2
        if step.number == 1:
            kernels.ftrl_start(w_N, z_N, threshold, ridge)
        kernels.ftrl(w_N, grad_N, z_N, q_N, out_N, step.lr, step.weight_decay, threshold, ridge)
