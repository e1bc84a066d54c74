"""What a run tells to its sinks: its config, then what is logged, last its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ps.launch.rules import Report
from ps.launch.sinks import Sink, Started
from ps.launch.sinks.queued import Call, Queued

CLOSE_S = 5.0  # at the end sinks have so long for what they have not written yet


def run_name(job: bytes) -> str:
    """Of this run's own: TIME-JOB."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{job.hex()[:6]}"


def make_log_dir(parent: str, name: str, warn: Callable[[str], None]) -> Path | None:
    """A folder of this run's own, `parent/name`; None, said once, where it cannot be made."""
    path = Path(parent) / name
    try:
        path.mkdir(parents=True)
    except OSError as error:
        warn(f"no logs and no run.jsonl: {path} cannot be made: {error.strerror or error}; --log-dir names another")
        return None
    return path


class Journal:
    """All sinks of one run. Only `end` waits for them; one that fails or stays behind costs a warning."""

    def __init__(self, sinks: Mapping[str, Sink], warn: Callable[[str], None]) -> None:
        self._queues, self._warn = [Queued(name, sink) for name, sink in sinks.items()], warn

    def start(self, run: Started) -> None:
        self._tell(lambda sink: sink.start(run))

    def submitted(self, script: str, args: Sequence[str], by: str) -> None:
        self._tell(lambda sink: sink.submitted(script, tuple(args), by))

    def logged(self, reports: Sequence[Report]) -> None:
        if reports:
            self._tell(lambda sink: sink.logged(reports), len(reports))
        self._say()

    def end(self, **outcome: Any) -> None:
        """Returns once all is written, after CLOSE_S at the longest."""
        self._tell(lambda sink: sink.end(outcome), last=True)
        deadline = time.monotonic() + CLOSE_S
        for queue in self._queues:
            queue.close(deadline)
        self._say()

    def _tell(self, call: Call, values: int = 0, last: bool = False) -> None:
        for queue in self._queues:
            queue.put(call, values, last)

    def _say(self) -> None:
        for queue in self._queues:
            for text in queue.warnings():
                self._warn(text)
