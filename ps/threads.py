"""A local cluster in real time: a thread for each server, the controller and each worker, on the memory transport."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ps.client import run_client
from ps.config import RunConfig
from ps.controller.core import Controller
from ps.controller.runtime import ControllerRuntime
from ps.metrics import Metrics, Snapshot
from ps.report import status
from ps.server.build import build_shard
from ps.server.runtime import Server
from ps.transport.base import Message
from ps.transport.memory import MemoryNetwork, MemoryTransport
from ps.types import CONTROLLER, PeerId, server_peer, worker_peer
from ps.wire import JOB_BYTES
from ps.worker.client import Client
from ps.worker.port import TransportPort
from ps.worker.reader import Reader
from ps.worker.runtime import Worker

IDLE_S = 0.5  # servers look at their timers at least so often


class Killed(BaseException):
    """Raised in a worker's thread at its next client call after it was killed."""


class WorkerPort(TransportPort):
    """A port whose peer can be killed."""

    def __init__(self, transport: MemoryTransport) -> None:
        super().__init__(transport)
        self.killed = False

    def recv(self, until: float) -> tuple[PeerId, Message] | None:
        item = super().recv(until)
        if self.killed:
            raise Killed
        return item

    def spend(self, seconds: float) -> None:
        super().spend(seconds)
        if self.killed:
            raise Killed


class Threads:
    """The backend of LocalCluster without a seed."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.job = config, secrets.token_bytes(JOB_BYTES)
        self.network = MemoryNetwork()
        self._lock = threading.Lock()  # the controller is called by its thread and by the owner's
        transport = self.network.open(CONTROLLER)
        core = Controller(
            config.workers,
            config.servers,
            config.model_dump_json(),
            config.on_worker_loss,
            config.epoch_share,
            config.lease_s,
            config.restart_s,
        )
        self.controller = ControllerRuntime(core, self.job, transport.send_nowait)
        self.transports: list[MemoryTransport] = [transport]
        self.servers: dict[int, Server] = {}
        self.ports: dict[int, WorkerPort] = {}
        self.clients: dict[int, Metrics] = {}
        self.workers: list[threading.Thread] = []
        self.results: dict[int, tuple[Any, BaseException | None]] = {}
        self._readers = 0
        self._stopped = threading.Event()  # the controller has said so
        self._services = [self._thread("controller", self._serve_controller, transport)]
        for shard in range(config.servers):
            self._add_server(shard)
        for service in self._services:
            service.start()

    # ---- the backend's face -----------------------------------------------------------------------------------------

    def start(self, train: Callable[[Client], Any]) -> None:
        for rank in range(self.config.workers):
            self.ports[rank] = WorkerPort(self.network.open(worker_peer(rank)))
            self.workers.append(self._thread(f"worker {rank}", self._work, rank, train))
        for thread in self.workers:
            thread.start()

    def join(self, timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self.workers:
            while thread.is_alive() and (end is None or time.monotonic() < end):
                thread.join(0.2 if end is None else max(0.0, min(0.2, end - time.monotonic())))
        if any(thread.is_alive() for thread in self.workers):
            return False
        self._stopped.wait(self.config.timeout_s)  # the last words of the workers are heard
        return True

    def outcome(self) -> list[tuple[Any, BaseException | None]]:
        return [self.results[rank] for rank in range(self.config.workers)]

    def read(self, task: Callable[[Reader], Any]) -> Any:
        self._readers += 1
        port = TransportPort(self.network.open(PeerId(f"reader:{self._readers}")))
        with Reader(port, self.job, self.config.timeout_s) as reader:
            return task(reader)

    def kill(self, kind: str, number: int) -> None:
        if kind == "worker":
            if (port := self.ports.get(number)) is not None:
                port.killed = True
                port.close()
            with self._lock:
                self.controller.perform(
                    self.controller.core.worker_lost(number, "it was killed", time.monotonic())
                )
        elif self.servers.pop(number, None) is not None:
            self.transports[number + 1].close()
            self._lost(number, "it was killed")

    def stop(self, reason: str) -> None:
        from ps.messages import Stop

        with self._lock:
            self.controller.perform(self.controller.core.handle(CONTROLLER, Stop(reason, False), time.monotonic()))
        self._stopped.set()

    def status(self) -> dict[str, Any]:
        with self._lock:
            return status(self.controller.core, self.servers)

    def metrics(self) -> list[tuple[str, Snapshot]]:
        servers = [(server_peer(shard), server.metrics.snapshot()) for shard, server in sorted(self.servers.items())]
        workers = [(worker_peer(rank), metrics.snapshot()) for rank, metrics in sorted(self.clients.items())]
        return [*servers, *workers]

    def contents(self) -> list[bytes]:
        return [part for _, server in sorted(self.servers.items()) for part in server.values.contents()]

    def close(self) -> None:
        """Ends services; workers that still run end at their next client call."""
        for rank, thread in enumerate(self.workers):
            if thread.is_alive():
                self.ports[rank].killed = True
                self.ports[rank].close()
        for transport in self.transports:
            transport.close()
        for service in self._services:
            service.join(5.0)
        for thread in self.workers:
            thread.join(5.0)

    # ---- threads ----------------------------------------------------------------------------------------------------

    def _thread(self, name: str, body: Callable[..., None], *args: Any) -> threading.Thread:
        return threading.Thread(target=body, args=args, name=f"ps {name}", daemon=True)

    def _add_server(self, shard: int) -> None:
        transport = self.network.open(server_peer(shard))
        self.transports.append(transport)
        self.servers[shard] = Server(
            build_shard(self.config, shard),
            self.job,
            transport.send_nowait,
            Metrics(),
            clip_value=self.config.clip_value,
        )
        self._services.append(self._thread(f"server {shard}", self._serve, shard, transport))

    def _serve(self, shard: int, transport: MemoryTransport) -> None:
        server = self.servers[shard]
        try:
            while not transport.is_closed:
                item = transport.recv(0.005 if server.has_unsent else IDLE_S)
                if item is not None:
                    server.receive(*item, time.monotonic())
                else:
                    server.retry_unsent()
        except Exception as error:  # a bug of ours must not become a hang of the user's
            self._lost(shard, f"{type(error).__name__}: {error}")
            raise

    def _serve_controller(self, transport: MemoryTransport) -> None:
        while not transport.is_closed:
            item = transport.recv(IDLE_S)
            with self._lock:
                if item is not None:
                    self.controller.receive(*item, time.monotonic())
                if time.monotonic() >= self.controller.core.next_timer():
                    self.controller.on_timer(time.monotonic())
                if self.controller.core.stopped is not None:
                    self._stopped.set()

    def _lost(self, shard: int, why: str) -> None:
        with self._lock:
            self.controller.perform(self.controller.core.server_lost(shard, why, time.monotonic()))
        self._stopped.set()

    def _work(self, rank: int, train: Callable[[Client], Any]) -> None:
        def counted(client: Client) -> Any:
            self.clients[rank] = client.metrics
            return train(client)

        try:
            self.results[rank] = (run_client(self.ports[rank], self.job, rank, counted), None)
        except Killed:
            self.results[rank] = (None, None)
        except BaseException as error:
            self.results[rank] = (None, error)


def embedded(options: dict[str, Any]) -> Client:
    """The one worker of a cluster in this process, which ends with the client."""
    config = RunConfig.check(options)
    print(
        f"ps: no cluster named by PS_* variables: this process is a one-worker cluster of its own "
        f"({config.consistency}, {config.optimizer})",
        file=sys.stderr,
    )
    cluster = Threads(config)
    port = TransportPort(cluster.network.open(worker_peer(0)))
    client = Client(Worker(port, cluster.job, 0))
    client.on_close = cluster.close
    return client
