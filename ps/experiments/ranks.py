"""Something else to compare with: processes that find each other by the variables of torch.distributed."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ps.errors import ConfigError
from ps.experiments.cells import Cell
from ps.experiments.points import logged_row
from ps.launch.options import Place, rules_of, threads_of
from ps.launch.rules import RUN, Progress, Report, Rule
from ps.launch.run import used
from ps.launch.supervisor import Exit, Supervisor

TICK_S = 0.1


def run(cell: Cell, folder: Path, place: Callable[[str], Place]) -> dict[str, Any]:
    """Starts `workers` processes and waits for their end, or until a stop rule holds; the outcome.

    The first that fails ends the others. The rules know what the ranks have written to PS_RUN_LOG.
    """
    log = Log(folder / "run.jsonl", cell.config.workers)
    rules = rules_of(cell.stop_after, cell.stop_when, cell.patience)
    failed: Exit | None = None
    stopped: str | None = None
    with Supervisor(lambda name, text: None, lambda text: print(text, file=sys.stderr), folder) as supervisor:
        for rank, (argv, env) in enumerate(_commands(cell, log.path, place)):
            supervisor.start(f"worker {rank}", argv, env)
        while supervisor.running:
            for exit in supervisor.wait(TICK_S):
                if exit.code != 0 and stopped is None and failed is None:
                    failed = exit
                    supervisor.terminate()
            if stopped is None and failed is None and (stopped := log.look(rules)) is not None:
                supervisor.terminate()
            if supervisor.signals:
                supervisor.kill()
        processes = used(supervisor.ended)
    log.look([])
    why = "all ranks are done" if failed is None else f"{failed.name}: {failed.words}"
    return {
        "exit_code": 0 if failed is None else failed.shell_code,
        "reason": stopped or why,
        "seconds": log.seconds,
        "began": log.began,
        "clocks": [clock or max(log.clocks) for clock in log.clocks],  # who logs nothing is where the others are
        "restarts": {},
        "checksum": None,
        "peers": {},
        "processes": processes,
    }


@dataclass
class Log:
    """What the ranks have written so far."""

    path: Path
    size: int
    clocks: list[int] = field(init=False)  # the last that each has told
    began: float | None = None  # when the first line was there, in `seconds`: ranks have clocks of their own
    started: float = field(default_factory=time.monotonic)
    _read: int = 0  # bytes
    _lines: int = 0

    def __post_init__(self) -> None:
        self.path.write_text("")
        self.clocks = [0] * self.size

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def look(self, rules: list[Rule]) -> str | None:
        """Takes what is new; why the run is to stop, if it is. Raises: ConfigError naming file and line."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        reports = []
        for line in whole.splitlines():
            self._lines += 1
            if (row := logged_row(line, self.path, self._lines)) is None:
                continue
            if not RUN <= row["rank"] < self.size:
                raise ConfigError(f"{self.path}:{self._lines}: rank: expected 0 to {self.size - 1}, got {row['rank']}")
            reports.append(Report(row["seconds"], row["rank"], row["clock"], row["name"], row["value"]))
        for report in reports:
            if report.rank != RUN:
                self.clocks[report.rank] = max(self.clocks[report.rank], report.clock)
        if reports and self.began is None:
            self.began = self.seconds
        told = [clock for clock in self.clocks if clock] or [0]  # ranks that log nothing are where the others are
        here = Progress(self.seconds, told, [])
        return next((reason for rule in rules if (reason := rule.reason(here, reports)) is not None), None)


def _commands(cell: Cell, log: Path, place: Callable[[str], Place]) -> list[tuple[list[str], dict[str, str]]]:
    """Of each rank: its command line and its environment."""
    size = cell.config.workers
    variables = {
        "MASTER_ADDR": place("worker 0").address,
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(size),
        "PS_RUN_LOG": str(log),
        "PS_SEED": str(cell.seed),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads_of(size)),
    }
    found = []
    for rank in range(size):
        at = place(f"worker {rank}")
        # gloo must not take the loopback device of a host for the way to the others
        device = {"GLOO_SOCKET_IFNAME": "eth0"} if at.command else {}
        env = {**os.environ, **variables, **device, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        found.append(([*at.command, sys.executable, cell.script, *cell.args], env))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
