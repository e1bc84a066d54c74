"""Delay compensation: a late gradient, corrected towards what it would be at the server's current values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from ps import kernels
from ps.optim.base import Step
from ps.optim.wrapper import Wrapper
from ps.types import Float

DECAY = 0.95  # of the mean square that `adaptive` keeps
EPS = 1e-7  # under the root of `adaptive`


@dataclass(frozen=True)
class DelayCompensated(Wrapper):
    """g <- g + clip(lam_t * g * g * (w - base), -|g|, |g|), then the inner optimizer (Zheng et al., ICML 2017).

    base are the values that the worker computed g on. `constant`: lam_t = lam. `adaptive`: m <- 0.95 * m + 0.05 * g * g
    and lam_t = lam / sqrt(m + 1e-7); lam of 1 to 2 is usual there. Shapes: all (n,).
    lam_t * g * g stands for the diagonal of the Hessian: with the true one a quadratic sees no delay at all. The clip
    keeps a far drift from exploding. No drift, lam = 0 or no known base: the inner optimizer alone, bit for bit.
    """

    lam: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.04
    mode: Literal["constant", "adaptive"] = "constant"

    @property
    def state(self) -> tuple[str, ...]:
        """`adaptive` keeps a mean square of its own."""
        own = ("dcasgd_mean_square",) if self.mode == "adaptive" else ()
        return (*own, *self.inner.state)

    @property
    def needs_base(self) -> bool:
        """Always."""
        return True

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit of the inner optimizer on the compensated gradient, made and used block by block."""
        own = len(state) - len(self.inner.state)
        if step.base_N is None:
            self.inner.update(w_N, grad_N, state[own:], out_N, step)
            return
        for w_B, g_B, base_B, out_B, *rest in kernels.blocks(w_N, grad_N, step.base_N, out_N, *state, scratch=1):
            *state_B, compensated_B = rest
            self._compensate(w_B, g_B, base_B, state_B[:own], compensated_B)
            self.inner.update(w_B, compensated_B, state_B[own:], out_B, replace(step, base_N=base_B))

    def _compensate(self, w_B: Float, g_B: Float, base_B: Float, own: Sequence[Float], out_B: Float) -> None:
        if self.mode == "constant":
            kernels.compensate(w_B, g_B, base_B, out_B, self.lam)
        else:
            kernels.compensate_adaptive(w_B, g_B, base_B, own[0], out_B, self.lam, DECAY, EPS)
