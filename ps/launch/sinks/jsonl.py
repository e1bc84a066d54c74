"""`run.jsonl`: one JSON object a line; first the config, then every value, last the outcome."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping
from io import FileIO
from typing import Any

from ps.launch.rules import RUN, Report
from ps.launch.sinks.base import Sink, Started


class JsonLines(Sink):
    """Written as it happens, unbuffered: who follows the file is never late."""

    def __init__(self) -> None:
        self._file: FileIO | None = None

    def start(self, run: Started) -> None:
        import numpy as np

        import ps

        if run.folder is not None:  # else it has been said
            self._file = (run.folder / "run.jsonl").open("ab", buffering=0)
        versions = {"ps": ps.__version__, "python": platform.python_version(), "numpy": np.__version__}
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(run.began))
        what = {"script": run.script, "args": list(run.args), "config": run.config}
        self._write({"event": "start", "at": at, **what, **versions})

    def submitted(self, script: str, args: tuple[str, ...], by: str) -> None:
        self._write({"event": "submitted", "script": script, "args": list(args), "by": by})

    def logged(self, reports: Iterable[Report]) -> None:
        for seconds, rank, clock, name, value in reports:
            whose = None if rank == RUN else rank
            self._write({"time": round(seconds, 3), "rank": whose, "clock": clock, "name": name, "value": value})

    def end(self, outcome: Mapping[str, Any]) -> None:
        self._write({"event": "end", **outcome})
        if self._file is not None:
            self._file.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        data = json.dumps(row).encode() + b"\n"
        try:
            while self._file is not None and data:
                data = data[self._file.write(data) :]
        except OSError:
            assert self._file is not None
            self._file.close()
            raise
