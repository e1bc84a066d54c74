"""`run.jsonl`: one JSON object a line; first the config, then every logged value, last the outcome."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ps.launch.output import LogFile
from ps.launch.rules import Report


def make_log_dir(parent: str, name: str, warn: Callable[[str], None]) -> Path | None:
    """A folder of this run's own, `parent/TIME-name`; None, said once, where it cannot be made."""
    path = Path(parent) / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        warn(f"no logs and no run.jsonl: {path} cannot be made: {error.strerror or error}; --log-dir names another")
        return None
    return path


class Journal:
    """Written as it happens; a disk that fails ends the journal with one warning, never the run."""

    def __init__(self, path: Path | None, warn: Callable[[str], None]) -> None:
        self._file = None if path is None else LogFile(path, warn)

    def start(self, config: dict[str, Any], script: str, args: Iterable[str]) -> None:
        import numpy as np

        import ps

        versions = {"ps": ps.__version__, "python": platform.python_version(), "numpy": np.__version__}
        began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._write({"event": "start", "at": began, "script": script, "args": list(args), "config": config, **versions})

    def submitted(self, script: str, args: Iterable[str], by: str) -> None:
        self._write({"event": "submitted", "script": script, "args": list(args), "by": by})

    def logged(self, reports: Iterable[Report]) -> None:
        for seconds, rank, clock, name, value in reports:
            row = {"time": round(seconds, 3), "rank": rank, "clock": clock, "name": name, "value": value}
            self._write(row)

    def end(self, **outcome: Any) -> None:
        self._write({"event": "end", **outcome})
        if self._file is not None:
            self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row).encode() + b"\n")
