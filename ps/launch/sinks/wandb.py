"""Weights & Biases: one run, `loss/worker_0` beside `loss/worker_1`, over `clock`. WANDB_* variables are its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ps.launch.rules import Report
from ps.launch.sinks.base import Sink, Started, by_worker


class WandB(Sink):
    """Workers are at different clocks, which wandb's own steps cannot be: so `clock` is a value, and every x axis."""

    package = "wandb"

    def start(self, run: Started) -> None:
        import wandb

        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise OSError("not logged in; run `wandb login` first, or set WANDB_API_KEY or WANDB_MODE=offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ps"),
            name=run.name,
            dir=run.folder,
            config={**run.config, "script": run.script, "args": list(run.args)},
            settings=wandb.Settings(console="off", quiet=True),  # the terminal is ours
        )
        self._run.define_metric("clock", hidden=True)
        self._run.define_metric("*", step_metric="clock")
        self._teardown = wandb.teardown

    def submitted(self, script: str, args: tuple[str, ...], by: str) -> None:
        self._run.config.update({"script": script, "args": list(args)}, allow_val_change=True)

    def logged(self, reports: Iterable[Report]) -> None:
        for report in reports:
            self._run.log({by_worker(report): report.value, "clock": report.clock})

    def end(self, outcome: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(outcome))
        self._run.finish(exit_code=outcome["exit_code"])
        self._teardown()  # its process
