"""A local cluster in real time: a thread for each server, the controller and each worker, on the memory transport."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ps.client import run_client
from ps.config import RunConfig
from ps.controller.build import build_controller
from ps.controller.runtime import ControllerRuntime
from ps.messages import Stop
from ps.metrics import Snapshot
from ps.report import status
from ps.server.build import build_server
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
SWITCH_S = 0.0005  # a service beside a busy training loop waits so long for its turn, not Python's 5 ms
CLOSE_S = 5.0  # `close` waits so long for threads, then leaves them behind


class Killed(BaseException):
    """Raised in a worker's thread at its next client call after it was killed."""


class WorkerPort(TransportPort):
    """A port whose peer can be killed."""

    def __init__(self, transport: MemoryTransport) -> None:
        super().__init__(transport)
        self._killed = threading.Event()

    def recv(self, until: float) -> tuple[PeerId, Message] | None:
        item = super().recv(until)
        if self._killed.is_set():
            raise Killed
        return item

    def spend(self, seconds: float) -> None:
        if self._killed.wait(seconds):
            raise Killed

    def kill(self) -> None:
        """Closed first, so that a killed worker has no last words."""
        self.close()
        self._killed.set()


class Threads:
    """The backend of LocalCluster without a seed."""

    def __init__(self, config: RunConfig, record: Path | None = None) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        self.config, self.job = config, secrets.token_bytes(JOB_BYTES)
        self.network = MemoryNetwork()
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()  # the controller is called by its thread and by the owner's
        transport = self.network.open(CONTROLLER)
        self.controller = ControllerRuntime(build_controller(config), self.job, transport.send_nowait)
        self._transports: list[MemoryTransport] = [transport]
        self._servers: dict[int, Server] = {}
        self._ports: dict[int, WorkerPort] = {}
        self._clients: dict[int, Client] = {}
        self._workers: list[threading.Thread] = []
        self._results: dict[int, Any] = {}
        self._ended: set[int] = set()
        self._all_ended = threading.Event()  # and not Thread.join, which an interrupt by the user breaks (gh-90882)
        self._readers = 0
        self._heard_all = threading.Event()  # the controller has heard the last words of every worker
        self._services = [self._thread("controller", self._serve_controller, transport)]
        for shard in range(config.servers):
            self._add_server(shard, record)
        for service in self._services:
            service.start()

    # ---- the backend's face -----------------------------------------------------------------------------------------

    def start(self, train: Callable[[Client], Any]) -> None:
        for rank in range(self.config.workers):
            self._ports[rank] = WorkerPort(self.network.open(worker_peer(rank)))
            self._workers.append(self._thread(f"worker {rank}", self._work, rank, train))
        for thread in self._workers:
            thread.start()

    def join(self, timeout: float | None) -> bool:
        started = time.monotonic()
        if not self._all_ended.wait(timeout):
            return False
        left = CLOSE_S if timeout is None else started + timeout - time.monotonic()
        self._heard_all.wait(max(0.0, min(left, CLOSE_S)))
        return True

    def running(self) -> dict[int, int]:
        left = sorted(set(self._ports) - self._ended)
        return {rank: self._clients[rank].clock if rank in self._clients else 0 for rank in left}

    def results(self) -> list[Any]:
        return [self._results.get(rank) for rank in range(self.config.workers)]

    def read(self, task: Callable[[Reader], Any]) -> Any:
        with self._lock:
            self._readers += 1
            port = TransportPort(self.network.open(PeerId(f"reader:{self._readers}")))
        with Reader(port, self.job, self.config.timeout_s) as reader:
            return task(reader)

    def kill(self, kind: str, number: int) -> None:
        if kind == "worker":
            self._ports[number].kill()
            with self._lock:
                self.controller.perform(self.controller.core.worker_lost(number, "it was killed", time.monotonic()))
            return
        with self._lock:
            server = self._servers.pop(number, None)
        if server is not None:
            self._transports[number + 1].close()
            self._lost(number, "it was killed")

    def stop(self, reason: str) -> None:
        self._stop(reason, failed=False)

    def status(self) -> dict[str, Any]:
        with self._lock:
            return status(self.controller.core, self._servers)

    def metrics(self) -> list[tuple[str, Snapshot]]:
        servers = [(server_peer(shard), server.metrics.snapshot()) for shard, server in self._living()]
        clients = sorted(dict(self._clients).items())
        return [*servers, *((worker_peer(rank), client.metrics.snapshot()) for rank, client in clients)]

    def contents(self) -> list[bytes]:
        return [part for _, server in self._living() for part in server.values.contents()]

    def close(self) -> None:
        for port in self._ports.values():
            port.kill()
        for transport in self._transports:
            transport.close()
        if threading.current_thread() not in self._workers:  # train may close its own cluster
            end = time.monotonic() + CLOSE_S
            for thread in [*self._services, *self._workers]:
                thread.join(max(0.0, end - time.monotonic()))

    # ---- threads ----------------------------------------------------------------------------------------------------

    def _thread(self, name: str, body: Callable[..., None], *args: Any) -> threading.Thread:
        return threading.Thread(target=body, args=args, name=f"ps {name}", daemon=True)

    def _living(self) -> list[tuple[int, Server]]:
        with self._lock:
            return sorted(self._servers.items())

    def _add_server(self, shard: int, record: Path | None) -> None:
        transport = self.network.open(server_peer(shard))
        server = build_server(self.config, shard, self.job, transport.send_nowait, record=record)
        self._transports.append(transport)
        self._servers[shard] = server
        self._services.append(self._thread(f"server {shard}", self._serve, shard, server, transport))

    def _serve(self, shard: int, server: Server, transport: MemoryTransport) -> None:
        try:
            while not transport.is_closed:
                item = transport.recv(0.005 if server.has_unsent else IDLE_S)
                if item is not None:
                    server.receive(*item, time.monotonic())
                else:
                    server.retry_unsent()
            server.close(killed=shard not in self._servers)
        except Exception as error:  # a bug of ours must not become a hang of the user's
            self._lost(shard, f"{type(error).__name__}: {error}")
            raise

    def _serve_controller(self, transport: MemoryTransport) -> None:
        core = self.controller.core
        try:
            while not transport.is_closed:
                item = transport.recv(max(0.0, min(IDLE_S, core.next_timer() - time.monotonic())))
                with self._lock:
                    if item is not None:
                        self.controller.receive(*item, time.monotonic())
                    if time.monotonic() >= core.next_timer():
                        self.controller.on_timer(time.monotonic())
                    over = ("done", "lost") if core.stopped is None else ("done", "lost", "expected")
                    if all(member.state in over for member in core.members.values()):
                        self._heard_all.set()
        except Exception as error:
            self._stop(f"the controller failed: {type(error).__name__}: {error}", failed=True)
            raise
        finally:
            self._heard_all.set()

    def _stop(self, reason: str, failed: bool) -> None:
        with self._lock:
            self.controller.perform(self.controller.core.handle(CONTROLLER, Stop(reason, failed), time.monotonic()))

    def _lost(self, shard: int, why: str) -> None:
        with self._lock:
            self.controller.perform(self.controller.core.server_lost(shard, why, time.monotonic()))

    def _work(self, rank: int, train: Callable[[Client], Any]) -> None:
        def known(client: Client) -> Any:
            self._clients[rank] = client
            return train(client)

        try:
            self._results[rank] = run_client(self._ports[rank], self.job, rank, known)
        except Killed:
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            with self._lock:
                self._ended.add(rank)
                if len(self._ended) == self.config.workers:
                    self._all_ended.set()


def embedded(config: RunConfig) -> Client:
    """The one worker of a cluster in this process, which ends with the client."""
    print(
        f"ps: no cluster named by PS_* variables: this process is a one-worker cluster of its own "
        f"({config.consistency}, {config.optimizer_in_words})",
        file=sys.stderr,
    )
    cluster = Threads(config)
    try:
        client = Client(Worker(TransportPort(cluster.network.open(worker_peer(0))), cluster.job, 0))
    except BaseException:
        cluster.close()
        raise
    client.on_close = cluster.close
    return client
