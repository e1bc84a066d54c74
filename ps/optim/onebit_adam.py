"""Adam whose second moment rests after a warm-up: it is linear in the gradient then, so frames may lose bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ps import kernels
from ps.optim.adam import Adam
from ps.optim.base import Step
from ps.types import Float


@dataclass(frozen=True)
class OneBitAdam(Adam):
    """`adam` for `warmup` commits; then v stays, m <- beta1 * m + (1 - beta1) * g, w <- w - lr * m / (sqrt(v) + eps).

    No bias correction after the warm-up: it should take 15 to 25 % of all steps. Elements whose v is 0 rest: one bit
    cannot say 0, and their step would be boundless. Shapes: all (n,). Source: Tang et al., ICML 2021, algorithm 1, with
    the momentum on the server, where it is shared. Unless the run says otherwise pushes and pulls travel as
    `onebit:warmup=...` with the same warm-up. Commits must be clocks: models that gather one gradient per
    clock, parameters registered before the first clock and pushed in each.
    """

    warmup: Annotated[int, Field(ge=1)] = 100

    PER_CLOCK: ClassVar[bool] = True
    IMPLIES: ClassVar[str] = "onebit:warmup={warmup}"

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit."""
        if step.number <= self.warmup:
            super().update(w_N, grad_N, state, out_N, step)
            return
        mean_N, mean_square_N = state
        rests_N = mean_square_N == 0
        grad_N = grad_N + grad_N.dtype.type(step.weight_decay) * w_N if step.weight_decay else grad_N.copy()
        grad_N[rests_N] = mean_N[rests_N] = 0
        kernels.adam(
            w_N, grad_N, mean_N, mean_square_N, out_N, step.lr, 0.0, False, self.beta1, 1.0, self.eps, 1.0, 1.0
        )
