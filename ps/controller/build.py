"""The controller as a run's config asks for."""

from __future__ import annotations

from ps.config import RunConfig
from ps.consistency import Gather
from ps.controller.core import Controller


def build_controller(config: RunConfig) -> Controller:
    """The controller before anybody has joined."""
    decision = config.model().commit(config.workers)
    return Controller(
        config.workers,
        config.servers,
        config.model_dump_json(),
        config.on_worker_loss,
        config.epoch_share,
        config.lease_s,
        config.restart_s,
        tells_rest=isinstance(decision, Gather) and decision.by == "version",
    )
