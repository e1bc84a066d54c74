"""A process's place in a cluster: its data plane over ZeroMQ and its line to the controller, as one port."""

from __future__ import annotations

import atexit
import ctypes
import json
import logging
import os
import secrets
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event

from ps import wire
from ps.control.hello import HELLO_S, Hello, LinkEnd, Welcome
from ps.control.link import ControlLink
from ps.errors import ConfigError, OutboxFull
from ps.key import Key, key_of_environment
from ps.messages import Stop
from ps.metrics import Metrics
from ps.transport.base import Message, Transport, Unreachable
from ps.transport.cards import Cards
from ps.transport.shaped import ShapedTransport
from ps.transport.zmq import ZmqTransport
from ps.types import CONTROLLER, PeerId, server_peer, worker_peer
from ps.wire import JOB_BYTES
from ps.worker.client import Client
from ps.worker.port import TransportPort
from ps.worker.reader import Reader
from ps.worker.reports import MEASURED_S
from ps.worker.runtime import Worker

log = logging.getLogger("ps")

JOIN_S = HELLO_S + 15.0  # until the controller lets us in: longer than it waits itself, it knows who is missing
SWITCH_S = 0.0005  # a busy thread lets another one go on after this, not after Python's 5 ms
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h
KEEP_BYTES = 1 << 30  # freed memory that stays mapped
MAPPED_ALONE_BYTES = 32 << 20  # the most that glibc takes: smaller buffers come from memory that stays


class ClusterPort(TransportPort):
    """A peer of a cluster of processes. Messages for the controller go over gRPC, all others over ZeroMQ."""

    releases_when_sent = True

    def __init__(self, address: PeerId, key: Key | None = None) -> None:
        self._places: dict[PeerId, str] = {}
        self._key = key  # of the cluster, for both planes
        self.transport = ZmqTransport(address, b"", self._places.get, key=key)
        self.over = Event()  # the controller has said goodbye, or is gone
        self.end: LinkEnd | None = None  # which of the two, once it is over
        super().__init__(over_links(self.transport))
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        keep_freed_memory()

    def join(self, controller: str, hello: Hello, timeout_s: float) -> Welcome:
        """Says Hello to the controller at "host:port"; returns once it lets this peer in. Raises: as ControlLink."""
        self._hello = hello
        try:
            self.link = ControlLink(controller, hello, self._take, self._end, timeout_s, self._key)
        except BaseException:
            super().close()
            raise
        welcome = self.link.welcome
        self.transport.job = welcome.job
        self._places.update({server_peer(shard): place for shard, place in welcome.servers.items()})
        return welcome

    def is_known_as(self, address: PeerId) -> None:
        self.transport.address = address

    def send_nowait(self, to: PeerId, message: Message) -> None:
        if to == CONTROLLER:
            self.link.send(message.header)
            message.release()
        else:
            super().send_nowait(to, message)

    def measured(self, metrics: Metrics) -> None:
        metrics.gauge("cpu", time.process_time())
        with suppress(Unreachable, OutboxFull):
            self.link.metrics(json.dumps(metrics.snapshot().to_dict()))

    def close(self) -> None:
        """The last words are delivered first."""
        self.link.close()
        super().close()

    def _take(self, header: bytes) -> None:
        self.transport.hand_in(CONTROLLER, Message(header))

    def _end(self, end: LinkEnd) -> None:
        self.end = end
        self.over.set()
        if not end.gone and self._hello.role != "server":  # who has not heard of the end otherwise
            self._take(wire.encode(self.transport.job, Stop(end.reason[:1000], end.failed)))
        if end.gone:
            log.warning("%s; training goes on without it, but nobody can join, register or pass a barrier", end.reason)
        self.transport.wake()


def keep_freed_memory() -> None:
    """Tells glibc to keep freed buffers mapped: a message in fresh pages takes twice as long (measured with 4 MiB)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)  # libzmq's thread allocates what this one frees
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_ALONE_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)


def join_worker(key: str | None = None) -> Client:
    """The client of this process, as PS_CONTROLLER, PS_JOB and PS_RANK name its place. key: file, else that of PS_KEY.

    Raises: ConfigError naming the variable, or what the controller refused; DeadlineError naming its address.
    """
    rank = number("PS_RANK", -1)
    port = ClusterPort(worker_peer(rank), key_of_environment(key))
    welcome = port.join(*named(Hello("worker", rank=rank)))
    try:
        client = Client(Worker(port, welcome.job, rank, welcome.config.timeout_s))
        client._worker.reports.measured_s = figures_s(MEASURED_S)
    except BaseException:
        port.close()
        raise
    atexit.register(_leave, client, os.getpid())
    return client


def join_reader(key: str | None = None) -> Reader:
    """A reader of the cluster that PS_CONTROLLER names. Raises: as `join_worker`."""
    port = ClusterPort(PeerId(f"reader:{secrets.token_hex(8)}"), key_of_environment(key))
    welcome = port.join(*named(Hello("reader")))
    try:
        return Reader(port, welcome.job, welcome.config.timeout_s)
    except BaseException:
        port.close()
        raise


def _leave(client: Client, pid: int) -> None:
    """At the end of a script that has not closed its client: it leaves, or says what ended the script."""
    if os.getpid() != pid:  # a forked child ends, and the client is its parent's
        return
    error = getattr(sys, "last_value", None)
    client.close("" if error is None else "".join(traceback.format_exception(error)))


def named(hello: Hello) -> tuple[str, Hello, float]:
    """What `ClusterPort.join` takes, as the environment says it. Raises: ConfigError naming the variable."""
    address = os.environ.get("PS_CONTROLLER", "")
    if not address:
        raise ConfigError("environment variable PS_CONTROLLER: expected host:port of the controller, got none")
    return address, replace(hello, job=job_id()), JOIN_S


def job_id() -> bytes:
    """The job of PS_JOB, empty without it. Raises: ConfigError naming it."""
    text = os.environ.get("PS_JOB", "")
    try:
        job = bytes.fromhex(text)
    except ValueError:
        job = b"?"
    if len(job) not in (0, JOB_BYTES):
        raise ConfigError(f"environment variable PS_JOB: expected {2 * JOB_BYTES} hex digits, got {text[:80]!r}")
    return job


def over_links(transport: ZmqTransport) -> Transport:
    """Over links of the speed that PS_LINKS names, "host:file" of a `Layout`, where an experiment has set it. Readers
    are on no host. Raises: ConfigError naming it."""
    text = os.environ.get("PS_LINKS")
    if text is None or transport.address.startswith("reader:"):
        return transport
    host, _, path = text.partition(":")
    try:
        cards = Cards(Path(path))
        if host not in cards.layout.hosts:
            cards.close()
            raise ValueError(f"no host {host!r} in it")
    except (OSError, ValueError) as error:
        transport.close()
        raise ConfigError(
            f"environment variable PS_LINKS: expected host:file, as an experiment sets it, got {text!r} "
            f"({str(error).splitlines()[0]})"
        ) from None
    return ShapedTransport(transport, cards, host, transport.queued_bytes_max)


def number(variable: str, default: int) -> int:
    """An environment variable's integer. Raises: ConfigError naming it."""
    text = os.environ.get(variable, str(default))
    if not text.removeprefix("-").isdecimal():
        raise ConfigError(f"environment variable {variable}: expected an integer, got {text!r}")
    return int(text)


def figures_s(most: float) -> float:
    """Seconds between two tellings of what this process has measured: at most those between two reports of the run's
    figures, PS_FIGURES_S, which are no newer than what they are made of. Raises: ConfigError naming it."""
    text = os.environ.get("PS_FIGURES_S", str(most))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"environment variable PS_FIGURES_S: expected seconds > 0, got {text!r}")
    return min(seconds, most)
