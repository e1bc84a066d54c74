"""A stand-in for `ps.control.service.ControlServer`, and the scripts of its workers and servers.

Servers ask as rank -1. Workers say `RANK clock 5`, `RANK log loss 0.5`, `RANK done`, `RANK failed TEXT`, each a line on
a connection of its own that is answered once it counts: no test waits by time.
"""

from __future__ import annotations

import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ps.config import RunConfig
from ps.control.logs import Logged

CHECKOUT = Path(__file__).resolve().parents[3]

# At the head of a worker's script.
SAY = """
import os, signal, socket, sys
rank = int(os.environ["PS_RANK"])
def say(*words):
    host, port = os.environ["PS_CONTROLLER"].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(" ".join([str(rank), *map(str, words)]).encode() + b"\\n")
        return link.makefile().readline().strip()
def until_stopped():
    while say("stopped?") != "yes":
        pass
"""

# A server: it ends when the controller says that all is over.
SERVER_SCRIPT = """
import os, socket, time
host, port = os.environ["PS_CONTROLLER"].split(":")
print("shard", os.environ["PS_SHARD"], flush=True)
while True:
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(b"-1 stopped?\\n")
        if link.makefile().readline().strip() == "yes":
            break
    time.sleep(0.02)
"""
SERVER = (sys.executable, "-S", "-c", SERVER_SCRIPT)


class FakeControl:
    """Members and outcome as the real one has them, as far as the launcher looks at them."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.job = config, bytes(range(16))
        self.outcome: tuple[str, bool] | None = None
        self.calls: list[str] = []
        self.logs: list[Logged] = []
        self.released = False
        self.workers: list[dict[str, Any]] = [
            {"rank": rank, "state": "expected", "clock": 0, "logged": {}} for rank in range(config.workers)
        ]
        self._lock = threading.Lock()
        control = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode()
                if line.endswith("\n"):  # else its process has died in the middle of a word
                    self.wfile.write(control.hear(line.split(" ", 2)).encode() + b"\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fake control")

    def start(self) -> str:
        self._thread.start()
        return f"127.0.0.1:{self._server.server_address[1]}"

    def hear(self, words: list[str]) -> str:
        rank, what, rest = int(words[0]), words[1].strip(), words[2].strip() if len(words) > 2 else ""
        with self._lock:
            worker = self.workers[max(rank, 0)]
            if what == "stopped?":
                failed = self.outcome is not None and self.outcome[1]
                return "yes" if self.outcome is not None and (failed or self.released or rank >= 0) else "no"
            if what == "states?":
                return " ".join(str(one["state"]) for one in self.workers)
            worker["state"] = "done" if what in ("done", "failed") else "running"
            if what == "clock":
                worker["clock"] = int(rest)
            elif what == "log":
                name, value = rest.split()
                self.logs.append(Logged(time.monotonic(), rank, worker["clock"], {name: float(value)}))
            elif what == "server":
                self._stop(f"server {rest} was lost (its connection ended) with the only copy of its slices", True)
            elif what == "failed":
                self._stop(f"worker {rank} failed at clock {worker['clock']}:\n{rest}", True)
            over = ("done",) if self.config.on_worker_loss == "wait" else ("done", "lost")
            if all(one["state"] in over for one in self.workers):
                self._stop("all workers are done", False)
        return "ok"

    def status(self) -> dict[str, Any]:
        with self._lock:
            workers = [{**worker, "logged": dict(worker["logged"])} for worker in self.workers]
            servers = [{"shard": shard, "address": "", "state": "up"} for shard in range(self.config.servers)]
            stopped, failed = self.outcome or (None, False)
        return {
            "workers": workers,
            "servers": servers,
            "stopped": stopped,
            "failed": failed,
            "metrics": {},
            "began_at": None,
        }

    def stop(self, reason: str, failed: bool = False) -> None:
        with self._lock:
            self.calls.append(f"stop {reason} {failed}")
            self._stop(reason, failed)

    def release(self) -> None:
        with self._lock:
            self.calls.append("release")
            self.released = True

    def take_logs(self) -> list[Logged]:
        with self._lock:
            logs, self.logs = self.logs, []
        return logs

    def worker_lost(self, rank: int, why: str) -> None:
        with self._lock:
            self.calls.append(f"lost {rank}: {why}")
            self.workers[rank]["state"] = "lost"
            if self.config.on_worker_loss == "drop" and all(one["state"] == "lost" for one in self.workers):
                self._stop(f"worker {rank} was lost ({why}), and no other is left", True)

    def server_lost(self, shard: int, why: str) -> None:
        with self._lock:
            self._stop(f"server {shard} was lost ({why}) with the only copy of its slices", True)

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _stop(self, reason: str, failed: bool) -> None:
        self.outcome = self.outcome or (reason, failed)
