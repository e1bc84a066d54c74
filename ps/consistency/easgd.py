"""Elastic averaging: every worker keeps values of its own, tied to those of the servers by a spring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps.consistency.async_ import Asynchronous
from ps.consistency.base import Cadence


@dataclass(frozen=True)
class ElasticAveraging(Asynchronous):
    """After `every` local steps w_k <- w_k - d and the servers' w <- w + d, with d = alpha * (w_k - w); nobody waits.

    w is pulled for the exchange; what others commit before d arrives is in w, not in d. So w_k + w is conserved always,
    and with all P workers at once it is the synchronous form, which contracts for alpha <= 2 / (P + 1). One after the
    other: any alpha <= (4 - 2 lr) / (4 - lr) on x^2 / 2. Usual: 0.9 / P. Needs server optimizer `add`; `pull` gives
    w_k, a reader sees w. With momentum in the script's own optimizer it is EAMSGD (Zhang et al., NIPS 2015).
    """

    alpha: Annotated[float, Field(gt=0, le=1)]  # share of the distance, lr * rho in the paper
    local_lr: Annotated[float, Field(ge=0)] = 0.0  # the worker's own rate; 0: the script steps (`Client.step_to`)
    every: Annotated[int, Field(ge=1)] = 10  # clocks of a worker between its exchanges (tau)

    @property
    def cadence(self) -> Cadence:
        return Cadence(self.every, self.every, carries="delta", local_lr=self.local_lr, elastic=self.alpha)
