"""A whole cluster in one process: real threads, or virtual time when a seed is given; and `connect` for one worker."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from ps.config import RunConfig
from ps.errors import ConfigError, DeadlineError, StoppedError
from ps.metrics import Snapshot
from ps.types import Array
from ps.worker.client import Client
from ps.worker.reader import Reader

if TYPE_CHECKING:
    from types import TracebackType

Train = Callable[[Client], Any]


class Backend(Protocol):
    """How a local cluster runs: `ps.threads` in real time, `ps.sim.cluster` in virtual time."""

    def start(self, train: Train) -> None: ...
    def join(self, timeout: float | None) -> bool: ...
    def outcome(self) -> list[tuple[Any, BaseException | None]]: ...
    def read(self, task: Callable[[Reader], Any]) -> Any: ...
    def kill(self, kind: str, number: int) -> None: ...
    def stop(self, reason: str) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def metrics(self) -> list[tuple[str, Snapshot]]: ...
    def contents(self) -> list[bytes]: ...
    def close(self) -> None: ...


class LocalCluster:
    """Servers, controller and workers in this process.

    Keywords are those of `ps.config.RunConfig`, which are also the flags of a cluster run. With `seed` it runs in virtual
    time, one event after the other: repeatable to the bit. Without, every part has a thread of its own.

        with ps.LocalCluster(servers=2, workers=4, consistency="ssp:staleness=3", seed=1) as cluster:
            results = cluster.run(train)
    """

    def __init__(self, servers: int = 1, workers: int = 1, *, seed: int | None = None, **options: Any) -> None:
        self.config = RunConfig.check({"servers": servers, "workers": workers, "seed": seed, **options})
        self._started = False
        self._backend: Backend
        if seed is None:
            from ps.threads import Threads

            self._backend = Threads(self.config)
        else:
            from ps.sim.cluster import Virtual

            self._backend = Virtual(self.config)

    def run(self, train: Train, *, timeout: float | None = None) -> list[Any]:
        """Runs `train(client)` (plain or async) in every worker; the results in rank order.

        Raises what the first failed worker raised; StoppedError when the job was ended otherwise; DeadlineError after
        `timeout` seconds of this machine's clock.
        """
        self.start(train)
        return self.results(timeout=timeout)

    def start(self, train: Train) -> None:
        """As `run`, but returns at once; follow it by `status()`, end it by `results()` or `stop()`."""
        if self._started:
            raise ConfigError("LocalCluster: it has run its one job already; make a new cluster for the next")
        self._started = True
        self._backend.start(_plain(train))

    def results(self, *, timeout: float | None = None) -> list[Any]:
        """Waits for the end of all workers and gives their results, as `run` does."""
        if not self._started:
            raise ConfigError("LocalCluster: nothing runs yet; call run(train) or start(train)")
        if not self._backend.join(timeout):
            running = [w["rank"] for w in self.status()["workers"] if w["state"] not in ("done", "lost")]
            raise DeadlineError(f"after {timeout:g} s workers {running} have not returned from train")
        outcome = self._backend.outcome()
        errors = [error for _, error in outcome if error is not None]
        first = [error for error in errors if not isinstance(error, StoppedError)]
        if errors:
            raise (first or errors)[0]
        return [result for result, _ in outcome]

    def pull(self, names: list[str] | None = None) -> dict[str, Array]:
        """The servers' current values, during the run or after it."""
        values: dict[str, Array] = self._backend.read(lambda reader: reader.pull(names))
        return values

    def status(self) -> dict[str, Any]:
        """Where everybody is: `workers` (rank, state, clock, logged values), `servers` (slices, bytes, versions), `stopped`."""
        return self._backend.status()

    def metrics(self) -> list[tuple[str, Snapshot]]:
        """Counters and histograms by peer ("worker:0", "server:1")."""
        return self._backend.metrics()

    def kill(self, peer: str) -> None:
        """Ends a peer like a crash: "worker:1" or "server:0"."""
        kind, _, number = peer.partition(":")
        limit = {"worker": self.config.workers, "server": self.config.servers}.get(kind, 0)
        if not number.isdigit() or int(number) >= limit:
            peers = f"worker:0 to worker:{self.config.workers - 1}, server:0 to server:{self.config.servers - 1}"
            raise ConfigError(f"kill: expected one of {peers}, got {peer!r}")
        self._backend.kill(kind, int(number))

    def stop(self, reason: str = "stopped by its owner") -> None:
        """Ends the job: `client.should_stop` becomes true everywhere."""
        self._backend.stop(reason)

    def checksum(self) -> str:
        """One number for all values and optimizer state: equal runs have equal ones."""
        import zlib

        crc = 0
        for part in self._backend.contents():
            crc = zlib.crc32(part, crc)
        return f"{crc:08x}"

    def close(self) -> None:
        """Ends everything."""
        self._backend.close()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _repr_html_(self) -> str:
        status = self.status()
        rows = "".join(
            f"<tr><td>worker {w['rank']}</td><td>{escape(w['state'])}</td><td>clock {w['clock']}</td>"
            f"<td>{escape(', '.join(f'{k}={v:.4g}' for k, v in w['logged'].items()))}</td></tr>"
            for w in status["workers"]
        ) + "".join(
            f"<tr><td>server {s['shard']}</td><td>{s['slices']} slices</td><td>{s['bytes']:,} bytes</td>"
            f"<td>version {s['version']}</td></tr>"
            for s in status["servers"]
        )
        head = f"{self.config.consistency}, {self.config.optimizer}, {status['stopped'] or 'running'}"
        return f"<table><caption>ps.LocalCluster: {escape(head)}</caption>{rows}</table>"


def _plain(train: Train) -> Train:
    """An async `train` is run in an event loop of the worker's own."""
    if not inspect.iscoroutinefunction(train):
        return train

    def run(client: Client) -> Any:
        from ps.worker.aio import AsyncClient

        return asyncio.run(train(AsyncClient(client)))

    return run


def connect(role: str = "worker") -> Client:
    """A client for this process. Alone, it is the one worker of an embedded cluster, and says so on stderr.

    Options of the embedded run come from PS_CONSISTENCY, PS_OPTIMIZER and the like, named as in ps.config.RunConfig.
    """
    if role != "worker":
        raise ConfigError(f"connect: expected role 'worker' outside a cluster, got {role!r}; use LocalCluster.pull to read")
    from ps.threads import embedded

    return embedded(options_from_environment())


def options_from_environment() -> dict[str, Any]:
    """Run options given as PS_<NAME> variables. Raises: ConfigError naming the variable."""
    options = {name: os.environ[f"PS_{name.upper()}"] for name in RunConfig.model_fields if f"PS_{name.upper()}" in os.environ}
    if options.get("workers", "1") != "1":
        raise ConfigError(f"PS_WORKERS: expected 1 for an embedded cluster, got {options['workers']}; use LocalCluster")
    return options
