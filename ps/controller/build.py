"""The controller as a run's config asks for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ps.compression.auto import AUTO, Decision, decide, decided
from ps.config import RunConfig
from ps.consistency import Gather
from ps.controller.core import Controller
from ps.keyspace import Parameter


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
        settle=partial(_settled, config) if config.compression == AUTO else None,
        check_optimizer=config.with_optimizer,
    )


def _settled(config: RunConfig, parameters: list[Parameter], link: float) -> tuple[Decision, list[Parameter]]:
    decision = decide(parameters, link)
    return decision, [replace(p, options=decided(config, p.options, decision.spec)) for p in parameters]
