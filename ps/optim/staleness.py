"""A smaller rate for a gradient that comes late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ps.optim.base import Step
from ps.optim.wrapper import Wrapper
from ps.types import Float


@dataclass(frozen=True)
class Staleness(Wrapper):
    """lr <- lr / max(1, tau) (`inverse`; Zhang et al., IJCAI 2016) or lr / sqrt(1 + tau) (`sqrt`, softer).

    tau is the staleness in commits. At tau = 0 it is the inner optimizer, bit for bit. Less is applied than was pushed,
    which error feedback does not know of: the worker still conserves, the server damps.
    """

    kind: Literal["inverse", "sqrt"] = "inverse"

    def factor(self, staleness: int) -> float:
        """What the rate is multiplied by: 1 at staleness 0, never rising with it."""
        return 1.0 / max(1, staleness) if self.kind == "inverse" else 1.0 / math.sqrt(1 + staleness)

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit of the inner optimizer at the smaller rate."""
        damped = replace(step, lr=step.lr * self.factor(step.staleness))
        super().update(w_N, grad_N, state, out_N, damped)
