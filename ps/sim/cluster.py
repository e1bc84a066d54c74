"""A local cluster in virtual time: the backend of LocalCluster with a seed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ps.config import RunConfig
from ps.messages import Stop
from ps.metrics import Metrics, Snapshot
from ps.report import status
from ps.sim.loop import JOB, Simulator
from ps.types import CONTROLLER, PeerId, server_peer, worker_peer
from ps.worker.client import Client
from ps.worker.reader import Reader

R = TypeVar("R")


class Virtual:
    """Runs the simulator in a thread of its own; what the owner asks is done there, between two events."""

    def __init__(self, config: RunConfig) -> None:
        assert config.seed is not None
        self.config = config
        self.simulator = Simulator(config, seed=config.seed)
        self._clients: dict[int, Metrics] = {}
        self._loop: threading.Thread | None = None
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._gate = threading.Lock()  # between asking and the loop's end
        self._running = False
        self._failure: BaseException | None = None
        self._closed = False
        self._readers = 0

    def start(self, train: Callable[[Client], Any]) -> None:
        for rank in range(self.config.workers):

            def counted(client: Client, rank: int = rank) -> Any:
                self._clients[rank] = client.metrics
                return train(client)

            self.simulator.run_worker(rank, counted)
        self._running = True
        self._loop = threading.Thread(target=self._run, name="ps virtual time", daemon=True)
        self._loop.start()

    def join(self, timeout: float | None) -> bool:
        if self._loop is None:
            return True
        self._loop.join(timeout)
        if self._failure is not None:
            raise self._failure
        return not self._loop.is_alive()

    def outcome(self) -> list[tuple[Any, BaseException | None]]:
        scripts = [self.simulator.scripts[worker_peer(rank)] for rank in range(self.config.workers)]
        return [(script.result, script.error) for script in scripts]

    def read(self, task: Callable[[Reader], Any]) -> Any:
        return self._ask(lambda: self._read(task))

    def kill(self, kind: str, number: int) -> None:
        sim = self.simulator
        self._ask(lambda: sim.kill_worker(number) if kind == "worker" else sim.kill_server(number))

    def stop(self, reason: str) -> None:
        def stop() -> None:
            runtime = self.simulator.controller
            runtime.perform(runtime.core.handle(CONTROLLER, Stop(reason, False), self.simulator.now))

        self._ask(stop)

    def status(self) -> dict[str, Any]:
        sim = self.simulator
        return self._ask(lambda: {**status(sim.controller.core, sim.servers), "virtual_seconds": sim.now})

    def metrics(self) -> list[tuple[str, Snapshot]]:
        def metrics() -> list[tuple[str, Snapshot]]:
            servers = sorted(self.simulator.servers.items())
            found = [(server_peer(shard), server.metrics.snapshot()) for shard, server in servers]
            return [*found, *((worker_peer(rank), m.snapshot()) for rank, m in sorted(self._clients.items()))]

        return self._ask(metrics)

    def contents(self) -> list[bytes]:
        servers = self.simulator.servers
        return self._ask(lambda: [part for _, server in sorted(servers.items()) for part in server.values.contents()])

    def close(self) -> None:
        """Kills what still runs."""
        if not self._closed:
            self._ask(self._kill_all)
            if self._loop is not None:
                self._loop.join(10.0)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], R]) -> R:
        """Does it in the loop's thread, or here when the loop does not run."""
        with self._gate:
            if self._running:
                answer: Future[R] = Future()
                self._asked.append((question, answer))
            else:
                return question()
        return answer.result()

    def _run(self) -> None:
        try:
            while not (self._closed or self.simulator.is_quiet):
                self._answer()
                self.simulator.step()
        except BaseException as error:  # shown to the owner by join
            self._failure = error
        with self._gate:
            self._running = False
        self._answer()

    def _answer(self) -> None:
        while self._asked:
            question, answer = self._asked.popleft()
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

    def _read(self, task: Callable[[Reader], Any]) -> Any:
        self._readers += 1
        script = self.simulator.spawn(PeerId(f"reader:{self._readers}"), lambda port: _read(port, task))
        while not script.is_over:  # virtual time goes on for everybody meanwhile
            self.simulator.step()
        if script.error is not None:
            raise script.error
        return script.result

    def _kill_all(self) -> None:
        self._closed = True
        for script in self.simulator.scripts.values():
            script.kill()


def _read(port: Any, task: Callable[[Reader], Any]) -> Any:
    with Reader(port, JOB) as reader:
        return task(reader)
