"""Something else to compare with: processes that find each other by the variables of torch.distributed."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ps.experiments.cells import Cell
from ps.launch.options import Place
from ps.launch.run import used
from ps.launch.supervisor import Supervisor

TICK_S = 0.5


def run(cell: Cell, folder: Path, place: Callable[[str], Place]) -> dict[str, Any]:
    """Starts `workers` processes and waits for their end; the outcome. The first that fails ends the others."""
    size, began = cell.config.workers, time.monotonic()
    master = place("worker 0").address
    log = folder / "run.jsonl"
    log.write_text("")
    variables = {
        "MASTER_ADDR": master,
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(size),
        "PS_RUN_LOG": str(log),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // size))),
    }
    with Supervisor(lambda name, text: None, lambda text: print(text, file=sys.stderr), folder) as supervisor:
        for rank in range(size):
            at = place(f"worker {rank}")
            # gloo must not take the loopback device of a host for the way to the others
            device = {"GLOO_SOCKET_IFNAME": "eth0"} if at.command else {}
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "PS_SEED": str(cell.seed), **device}
            argv = [*at.command, sys.executable, cell.script, *cell.args]
            supervisor.start(f"worker {rank}", argv, {**os.environ, **variables, **own})
        failed = None
        while supervisor.running:
            for exit in supervisor.wait(TICK_S):
                if exit.code != 0 and failed is None:
                    failed = exit
                    supervisor.terminate()
            if supervisor.signals:
                supervisor.kill()
        processes = used(supervisor.ended)
    return {
        "exit_code": 0 if failed is None else failed.shell_code,
        "reason": "all ranks are done" if failed is None else f"{failed.name}: {failed.words}",
        "seconds": time.monotonic() - began,
        **_progress(log, size),
        "restarts": {},
        "checksum": None,
        "peers": {},
        "processes": processes,
    }


def _progress(log: Path, size: int) -> dict[str, Any]:
    """The last clock that each rank has told, and the first time that any has."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    clocks = [max((row["clock"] for row in rows if row["rank"] == rank), default=0) for rank in range(size)]
    return {"clocks": clocks, "began": min((row["time"] for row in rows), default=None)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
