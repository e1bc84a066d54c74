"""Consistency models, one per file: who may read when, what happens to a push, what travels when.

Spelled `bsp`, `ssp:staleness=3`, `async`, `downpour:push_every=5,pull_every=5,local_lr=0.01`, `quorum:n=3`,
`local:every=20,local_lr=0.1`, `local:every=20,fragments=4,overlap=2`, `async_local:every=20`, `easgd:alpha=0.2`, or
`package.module:Class:key=value` for one's own.
"""

from __future__ import annotations

from ps.consistency.async_ import Asynchronous, Downpour
from ps.consistency.base import Cadence, Consistency, Gather, OnArrival
from ps.consistency.bsp import BulkSynchronous
from ps.consistency.easgd import ElasticAveraging
from ps.consistency.local import AsyncLocalSteps, LocalSteps
from ps.consistency.quorum import Quorum
from ps.consistency.ssp import StaleSynchronous
from ps.errors import ConfigError
from ps.plugins import build

__all__ = ["CONSISTENCY", "Cadence", "Consistency", "Gather", "OnArrival", "consistency"]

CONSISTENCY: dict[str, type[Consistency]] = {
    "bsp": BulkSynchronous,
    "ssp": StaleSynchronous,
    "async": Asynchronous,
    "downpour": Downpour,
    "quorum": Quorum,
    "local": LocalSteps,
    "async_local": AsyncLocalSteps,
    "easgd": ElasticAveraging,
}


def consistency(spec: str) -> Consistency:
    """The model that `spec` spells. Raises: ConfigError naming what is wrong and what is known."""
    model = build("consistency", CONSISTENCY, spec)
    if not isinstance(model, Consistency):
        raise ConfigError(f"consistency: expected a subclass of ps.consistency.Consistency, got {spec!r}")
    return model
