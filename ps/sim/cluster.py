"""A local cluster in virtual time: the backend of LocalCluster with a seed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from ps.client import run_client
from ps.config import RunConfig
from ps.errors import ConfigError, DeadlineError
from ps.metrics import Snapshot
from ps.report import status
from ps.sim.loop import JOB, Simulator
from ps.sim.network import Network
from ps.sim.scripts import Killed, Script
from ps.types import PeerId, server_peer, worker_peer
from ps.worker.client import Client
from ps.worker.port import Port
from ps.worker.reader import Reader

R = TypeVar("R")
CLOSE_S = 5.0  # `close` waits so long for threads, then leaves them behind


class Virtual:
    """Runs the simulator in a thread of its own; what the owner asks is done there, between two events."""

    def __init__(
        self,
        config: RunConfig,
        network: Network | None = None,
        staleness: str | None = None,
        record: Path | None = None,
    ) -> None:
        assert config.seed is not None
        if not isinstance(network, Network | None):
            raise ConfigError(f"network: expected a ps.sim.network.Network or None, got {network!r}")
        self.config = config
        self.simulator = Simulator(config, seed=config.seed, network=network, staleness=staleness, record=record)
        self.failures: list[BaseException] = []
        self._workers: dict[int, Script] = {}
        self._clients: dict[int, Client] = {}
        self._threads: set[int] = set()  # of the workers: while one runs, the loop waits for it
        self._loop = threading.Thread(target=self._run, name="ps virtual time", daemon=True)
        self._over = threading.Event()  # and not Thread.join, which an interrupt by the user breaks (gh-90882)
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._gate = threading.Lock()  # between asking and the loop's end
        self._running = self._closing = False
        self._bug: BaseException | None = None
        self._readers = 0

    def start(self, train: Callable[[Client], Any]) -> None:
        for rank in range(self.config.workers):
            self._workers[rank] = self.simulator.spawn(worker_peer(rank), self._worker(rank, train))
        self._running = True
        self._loop.start()

    def join(self, timeout: float | None) -> bool:
        over = self._over.wait(timeout)
        if self._bug is not None:
            raise self._bug
        return over and not self.running()

    def running(self) -> dict[int, int]:
        alive = [rank for rank, script in self._workers.items() if not script.is_over]
        return {rank: self._clients[rank].clock if rank in self._clients else 0 for rank in alive}

    def results(self) -> list[Any]:
        return [script.result for _, script in sorted(self._workers.items())]

    def read(self, task: Callable[[Reader], Any]) -> Any:
        if threading.get_ident() in self._threads:
            raise ConfigError("LocalCluster.pull: expected a call from outside train; in train use client.pull()")
        return self._ask(lambda: self._read(task))

    def kill(self, kind: str, number: int) -> None:
        sim = self.simulator
        self._ask(lambda: sim.kill_worker(number) if kind == "worker" else sim.kill_server(number))

    def stop(self, reason: str) -> None:
        self._ask(lambda: self.simulator.stop(reason, failed=False))

    def status(self) -> dict[str, Any]:
        sim = self.simulator
        return self._ask(lambda: {**status(sim.controller.core, sim.servers), "virtual_seconds": sim.now})

    def metrics(self) -> list[tuple[str, Snapshot]]:
        def metrics() -> list[tuple[str, Snapshot]]:
            servers = sorted(self.simulator.servers.items())
            clients = sorted(self._clients.items())
            found = [(server_peer(shard), server.metrics.snapshot()) for shard, server in servers]
            return [*found, *((worker_peer(rank), client.metrics.snapshot()) for rank, client in clients)]

        return self._ask(metrics)

    def contents(self) -> list[bytes]:
        return self._ask(self.simulator.contents)

    def close(self) -> None:
        self._closing = True
        if threading.get_ident() in self._threads:
            return  # train closes its own cluster: the loop sees it when this worker waits or ends
        end = time.monotonic() + CLOSE_S
        if self._loop.ident is not None:
            self._loop.join(CLOSE_S)
        if not self._running:
            self._kill_all()  # what waits for ever
            for script in self.simulator.scripts.values():
                script.join(max(0.0, end - time.monotonic()))
            self.simulator.close()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], R]) -> R:
        """Does it in the loop's thread; here when the loop does not run, or waits for this very thread."""
        if threading.get_ident() in self._threads:
            return question()
        with self._gate:
            if not self._running:
                return question()
            answer: Future[R] = Future()
            self._asked.append((question, answer))
        wait([answer], self.config.timeout_s)
        if not answer.done():
            who = ", ".join(f"worker {rank} (at clock {clock})" for rank, clock in self.running().items())
            raise DeadlineError(
                f"after {self.config.timeout_s:g} s virtual time has not moved: one of {who} computes, or waits for "
                f"another worker by other means than its client, which never ends here: only one of them runs at a time"
            )
        return answer.result()

    def _run(self) -> None:
        try:
            while not (self._closing or self.simulator.is_quiet):
                self._answer()
                self.simulator.step()
            if self._closing:
                self._kill_all()
        except BaseException as error:  # shown to the owner by join
            self._bug = error
        with self._gate:
            self._running = False
        self._answer()
        self._over.set()

    def _answer(self) -> None:
        while self._asked:
            question, answer = self._asked.popleft()
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

    def _worker(self, rank: int, train: Callable[[Client], Any]) -> Callable[[Script], Any]:
        def known(client: Client) -> Any:
            self._clients[rank] = client
            return train(client)

        def body(port: Script) -> Any:
            self._threads.add(threading.get_ident())
            try:
                return run_client(port, JOB, rank, known)
            except Killed:
                raise
            except BaseException as error:
                self.failures.append(error)
                raise
            finally:
                self._threads.discard(threading.get_ident())  # the number may be given out again

        return body

    def _read(self, task: Callable[[Reader], Any]) -> Any:
        def body(port: Port) -> Any:
            with Reader(port, JOB, self.config.timeout_s) as reader:
                return task(reader)

        self._readers += 1
        script = self.simulator.spawn(PeerId(f"reader:{self._readers}"), body)
        while not script.is_over:  # virtual time goes on for everybody meanwhile
            self.simulator.step()
        if script.error is not None:
            raise script.error
        return script.result

    def _kill_all(self) -> None:
        for script in self.simulator.scripts.values():
            script.kill()
