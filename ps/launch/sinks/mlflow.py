"""MLflow: one run, metric `loss/worker_0` beside `loss/worker_1`, steps are clocks. MLFLOW_* variables are its own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from ps.launch.rules import Report
from ps.launch.sinks.base import Sink, Started, by_worker

EXPERIMENT = "ps"  # unless MLFLOW_EXPERIMENT_NAME says otherwise
METRICS_MAX = 1000  # of one request
PARAM_MAX = 500  # characters of a parameter, in every release
NAME_MAX = 250  # bytes of a metric's name: so many characters, and a file's name in a store of files
_STRANGE = re.compile(r"[^\w\-. ]|^\.+|^$")  # refused in a part of a metric's name, or taken for a folder


class MLflow(Sink):
    """Through a client of its own: MLflow's global active run stays the user's."""

    package = "mlflow"

    def start(self, run: Started) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric, self._began = MlflowClient(), Metric, run.began
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        told = {**run.config, "script": run.script, "args": list(run.args)}
        params = [Param(key, str(value)[:PARAM_MAX]) for key, value in told.items()]
        self._client.log_batch(self._id, params=params)

    def submitted(self, script: str, args: tuple[str, ...], by: str) -> None:
        self._client.set_tag(self._id, "submitted", f"{script} by {by}")

    def logged(self, reports: Iterable[Report]) -> None:
        metrics = [
            self._metric(_fitting(by_worker(one)), one.value, self._milliseconds(one.seconds), one.clock)
            for one in reports
        ]
        for start in range(0, len(metrics), METRICS_MAX):
            self._client.log_batch(self._id, metrics=metrics[start : start + METRICS_MAX])

    def end(self, outcome: Mapping[str, Any]) -> None:
        self._client.set_tag(self._id, "reason", outcome["reason"])
        self._client.set_terminated(self._id, "FAILED" if outcome["exit_code"] else "FINISHED")

    def _milliseconds(self, seconds: float) -> int:
        return round(1000 * (self._began + seconds))


def _fitting(name: str) -> str:
    """A name that MLflow takes. A long one keeps its end, which says the worker, behind a digest of all of it."""
    fits = "/".join(_STRANGE.sub("_", part) for part in name.split("/"))
    if len(fits.encode()) <= NAME_MAX:
        return fits
    digest = sha256(name.encode()).hexdigest()[:8] + "-"
    return digest + fits.encode()[len(digest) - NAME_MAX :].decode(errors="ignore")
