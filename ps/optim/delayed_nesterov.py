"""Nesterov's momentum for pushes that commit one by one: the outer optimizer of asynchronous DiLoCo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps import kernels
from ps.errors import ConfigError
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True, kw_only=True)
class DelayedNesterov(Optimizer):
    """b <- b + g; w <- w - lr * (g + share * period * decay * v), with g <- g + weight_decay * w first.

    Every `period`-th commit begins with v <- decay * v + b / period, b <- 0, and has share = 1 - c * period + c; the
    others have c. So a gradient enters when it comes, and the velocity moves once per period, by the mean of them:
    plain momentum, moved by every arrival, amplifies late ones. c > 0 spreads the velocity's part over the period.
    lr is the rate of one commit, which models that apply on arrival make a / live. With period = live and c = 0 a
    period moves w as one step of `nesterov` with rate a on the mean does.
    Shapes: all (n,). Source: Liu et al., arXiv 2401.09135, algorithm 3.
    """

    period: Annotated[int, Field(ge=1)]  # commits; the number of workers
    decay: Annotated[float, Field(gt=-1, lt=1)] = 0.9
    c: Annotated[float, Field(ge=0)] = 0.0

    STATE = ("gathered", "velocity")

    def __post_init__(self) -> None:
        if self.c * self.period > 1:
            raise ConfigError(f"c: expected at most 1 / period = {1 / self.period:g}, got {self.c:g}")

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        ends = step.number % self.period == 0
        share = 1 - self.c * self.period + self.c if ends else self.c
        for w_B, g_B, gathered_B, velocity_B, out_B, t_B in kernels.blocks(w_N, grad_N, *state, out_N, scratch=1):
            if step.weight_decay:
                kernels.sgd(g_B, w_B, t_B, -step.weight_decay, 0.0)
                g_B = t_B
            kernels.add(gathered_B, g_B, gathered_B)
            kernels.sgd(w_B, g_B, out_B, step.lr, 0.0)
            if ends:
                kernels.scale_into(velocity_B, self.decay, velocity_B)
                kernels.divide(gathered_B, self.period, gathered_B)
                kernels.add(velocity_B, gathered_B, velocity_B)
                gathered_B.fill(0)
            if share:
                kernels.sgd(out_B, velocity_B, out_B, step.lr * share * self.period * self.decay, 0.0)
