"""A whole cluster in one process: real threads, or virtual time when a seed is given; and `connect` for one worker."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from difflib import get_close_matches
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from ps.colocated import counted
from ps.config import SPELLED, RunConfig
from ps.errors import ConfigError, DeadlineError, StoppedError
from ps.metrics import Snapshot
from ps.record.entries import new_folder
from ps.server.values import checksum
from ps.types import Array
from ps.worker.aio import AsyncClient
from ps.worker.client import Client
from ps.worker.reader import Reader

if TYPE_CHECKING:
    from types import TracebackType

Plain = Callable[[Client], Any]
HERE: ContextVar[Client | None] = ContextVar("client", default=None)  # what `connect` gives to a script run in here
Train = Plain | Callable[[AsyncClient], Awaitable[Any]]


class Backend(Protocol):
    """How a local cluster runs: `ps.threads` in real time, `ps.sim.cluster` in virtual time."""

    failures: list[BaseException]  # what ended workers, in the order of time

    def start(self, train: Plain) -> None: ...
    def join(self, timeout: float | None) -> bool: ...
    def running(self) -> dict[int, int]: ...  # rank -> clock of the workers that have not returned
    def results(self) -> list[Any]: ...  # in rank order, None where there is none
    def read(self, task: Callable[[Reader], Any]) -> Any: ...
    def kill(self, kind: str, number: int) -> None: ...
    def stop(self, reason: str) -> None: ...
    def status(self) -> dict[str, Any]: ...
    def metrics(self) -> list[tuple[str, Snapshot]]: ...
    def contents(self) -> list[bytes]: ...
    def close(self) -> None: ...


class LocalCluster:
    """Servers, controller and workers in this process.

    Keywords are those of `ps.config.RunConfig`, which are also the flags of a cluster run. With `seed` it runs in
    virtual time, one event after the other: repeatable to the bit. Without, every part has a thread of its own.
    `record` names a new folder, where all servers write down what they apply, for `psctl replay`; complete at `close`.

        with ps.LocalCluster(servers=2, workers=4, consistency="ssp:staleness=3", seed=1) as cluster:
            results = cluster.run(train)
    """

    def __init__(
        self,
        servers: int | Literal["colocated"] = 1,
        workers: int = 1,
        *,
        seed: int | None = None,
        record: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self.config = RunConfig.check(counted({"servers": servers, "workers": workers, "seed": seed, **options}))
        self._pid = os.getpid()
        self._started = self._closed = False
        self._cut_off: list[int] = []  # ranks that ran when the cluster was closed
        self._backend: Backend
        folder = None if record is None else new_folder("record", Path(record))
        if seed is None:
            from ps.threads import Threads

            self._backend = Threads(self.config, folder)
        else:
            from ps.sim.cluster import Virtual

            self._backend = Virtual(self.config, folder)

    def run(self, train: Train, *, timeout: float | None = None) -> list[Any]:
        """Runs `train(client)` (plain or async) in every worker; the results in rank order, None of killed workers.

        Raises what the first failed worker raised; StoppedError when the job was ended otherwise; DeadlineError after
        `timeout` seconds of this machine's clock.
        """
        _check_timeout("run", timeout)
        self.start(train)
        return self.results(timeout=timeout)

    def start(self, train: Train) -> None:
        """As `run`, but returns at once; follow it by `status()`, end it by `results()` or `stop()`."""
        self._check("start")
        if self._started:
            raise ConfigError("LocalCluster: it has run its one job already; make a new cluster for the next")
        if not callable(train):
            raise ConfigError(f"run: expected a function that takes a client, got {train!r}")
        self._started = True
        self._backend.start(_plain(train))

    def results(self, *, timeout: float | None = None) -> list[Any]:
        """Waits for the end of all workers and gives their results, as `run` does."""
        self._check_started("results")
        _check_timeout("results", timeout)
        if not self._backend.join(timeout):
            who = ", ".join(f"worker {rank} (at clock {clock})" for rank, clock in self._backend.running().items())
            when = "nothing can happen any more, and" if timeout is None else f"after {timeout:g} s"
            raise DeadlineError(f"results: {when} train has not returned in {who}; wait longer, or end it by close()")
        failures = self._backend.failures
        own = [error for error in failures if not isinstance(error, StoppedError)]  # the others follow from these
        for error in own or failures:
            raise error
        if self._cut_off:
            raise StoppedError(f"the cluster was closed while workers {self._cut_off} ran; they have no results")
        return self._backend.results()

    def pull(self, names: list[str] | None = None, *, timeout: float | None = None) -> dict[str, Array]:
        """The servers' current values, during the run or after it; waits until parameters are registered.

        Raises: ConfigError for an unknown name, DeadlineError naming the server, StoppedError.
        """
        self._check("pull")
        self._check_started("pull")
        _check_timeout("pull", timeout)
        values: dict[str, Array] = self._backend.read(lambda reader: reader.pull(names, timeout=timeout))
        return values

    def status(self) -> dict[str, Any]:
        """Where everybody is, in builtin types: see `ps.report.status`."""
        return self._backend.status()

    def metrics(self) -> list[tuple[str, Snapshot]]:
        """Counters and histograms by peer ("worker:0", "server:1")."""
        return self._backend.metrics()

    def kill(self, peer: str) -> None:
        """Ends a peer like a crash: "worker:1" or "server:0"."""
        self._check("kill")
        self._check_started("kill")
        kind, _, number = peer.partition(":")
        limit = {"worker": self.config.workers, "server": self.config.servers}.get(kind, 0)
        if not number.isdecimal() or int(number) >= limit:
            peers = f"worker:0 to worker:{self.config.workers - 1}, server:0 to server:{self.config.servers - 1}"
            raise ConfigError(f"kill: expected one of {peers}, got {peer!r}")
        self._backend.kill(kind, int(number))

    def stop(self, reason: str = "stopped by its owner") -> None:
        """Ends the job: `client.should_stop` becomes true everywhere."""
        self._check("stop")
        self._backend.stop(reason)

    def checksum(self) -> str:
        """One number for all values and optimizer state: equal runs have equal ones."""
        return f"{checksum(self._backend.contents()):08x}"

    def close(self) -> None:
        """Ends everything; workers that still run end at their next client call."""
        if self._pid == os.getpid():
            if not self._closed:
                self._closed = True
                self._cut_off = sorted(self._backend.running())
            self._backend.close()  # again where train has closed its own cluster: now its threads are waited for

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _check(self, call: str) -> None:
        if self._pid != os.getpid():
            raise ConfigError(
                f"{call}: this cluster was made before a fork: its threads belong to the parent process; make a "
                f"LocalCluster in the child, or start children with 'spawn'"
            )
        if self._closed:
            raise ConfigError(f"{call}: this cluster is closed; call it inside the with block, or before close()")

    def _check_started(self, call: str) -> None:
        if not self._started:
            raise ConfigError(f"{call}: nothing runs yet; call run(train) or start(train) first")

    def _repr_html_(self) -> str:
        status = self.status()
        rows = [
            (f"worker {w['rank']}", w["state"], f"clock {w['clock']}", _short(w["logged"])) for w in status["workers"]
        ] + [
            (f"server {s['shard']}", f"{s['slices']} slices", f"{s['bytes']:,} bytes", f"version {s['version']}")
            for s in status["servers"]
        ]
        state = (status["stopped"] or ("running" if self._started else "not started")).partition("\n")[0]
        caption = escape(f"ps.LocalCluster: {self.config.consistency}, {self.config.optimizer_in_words}, {state}")
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
        return f"<table><caption>{caption}</caption>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _short(logged: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in logged.items())


def _check_timeout(call: str, timeout: float | None) -> None:
    if timeout is not None and not timeout > 0:
        raise ConfigError(f"{call}: timeout: expected seconds > 0, or None for no limit, got {timeout!r}")


def _plain(train: Any) -> Plain:
    """An async `train` is run in an event loop of the worker's own."""
    if not (inspect.iscoroutinefunction(train) or inspect.iscoroutinefunction(type(train).__call__)):
        plain: Plain = train
        return plain

    def run(client: Client) -> Any:
        awaited = AsyncClient(client)
        try:
            return asyncio.run(train(awaited))
        finally:
            awaited.end_thread()

    return run


@overload
def connect(role: Literal["worker"] = "worker", *, key: str | None = None) -> Client: ...
@overload
def connect(role: Literal["reader"], *, key: str | None = None) -> Reader: ...
def connect(role: str = "worker", *, key: str | None = None) -> Client | Reader:
    """This process's client in the cluster that PS_CONTROLLER names (`psctl run` does), or a reader of its values.

    key: the cluster's key file, if it has one; else PS_KEY names it. An embedded cluster has no use for it.

    Without PS_CONTROLLER the process is the one worker of an embedded cluster, and says so on stderr; options of that
    run come from PS_CONSISTENCY, PS_OPTIMIZER and the like, named as in ps.config.RunConfig.

    Raises: ConfigError naming role or variable, or what the controller refused; DeadlineError naming who is missing.
    """
    if role not in ("worker", "reader"):
        raise ConfigError(f"connect: role: expected 'worker' or 'reader', got {role!r}")
    if role == "worker" and (client := HERE.get()) is not None:
        return client
    if os.environ.get("PS_CONTROLLER"):
        from ps import processes

        return processes.join_worker(key) if role == "worker" else processes.join_reader(key)
    if role != "worker":
        raise ConfigError(
            f"connect: role: expected 'worker', as no cluster is named by PS_* variables, got {role!r}; to read the "
            f"values of a cluster in this process use LocalCluster.pull"
        )
    from ps.threads import embedded

    return embedded(RunConfig.check(counted(options_from_environment())))


def options_from_environment() -> dict[str, Any]:
    """Run options given as PS_<NAME> variables, checked. Raises: ConfigError naming the variable."""
    known = {f"PS_{name.upper()}": name for name in SPELLED}
    options: dict[str, Any] = {}
    for variable, value in sorted(os.environ.items()):
        if variable in known:
            options[known[variable]] = value
            try:
                RunConfig.check(counted({known[variable]: value}))
            except ConfigError as error:
                raise ConfigError(f"environment variable {variable}: {error}") from None
        elif variable.startswith("PS_") and (meant := get_close_matches(variable, known, 1, cutoff=0.85)):
            raise ConfigError(f"environment variable {variable}: expected a run option, did you mean {meant[0]}?")
    if options.get("workers", "1") != "1":
        raise ConfigError(
            f"environment variable PS_WORKERS: expected 1, as this process is a cluster of its own, got "
            f"{options['workers']}; use ps.LocalCluster(workers={options['workers']})"
        )
    return options
