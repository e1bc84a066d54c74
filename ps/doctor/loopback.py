"""What a cluster does over the network, done once over loopback: a round trip, a control plane, a free port."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from statistics import median
from threading import Thread
from typing import TYPE_CHECKING

from ps.doctor.finding import WAIT_S, Finding, ok, problem, warning

if TYPE_CHECKING:
    from ps.transport.zmq import ZmqTransport

PINGS = 200
SLOW_US = 1000.0  # an idle machine needs a tenth of it
HOST = "127.0.0.1"


def data_plane() -> Iterator[Finding]:
    """Pings over ZeroMQ between two threads."""
    took_us = ping_us(PINGS)
    what, found = "data plane", "" if took_us is None else f"{took_us:.0f} us for a round trip over ZeroMQ on {HOST}"
    if took_us is None:
        remedy = f"let programs of this machine reach each other over {HOST}: firewall? sandbox?"
        yield problem(what, f"{PINGS} round trips over ZeroMQ on {HOST} took more than {WAIT_S:g} s", remedy)
    elif took_us > SLOW_US:
        yield warning(what, f"{found}, expected at most {SLOW_US:g}", "is the machine busy? look at top")
    else:
        yield ok(what, found)


def ping_us(count: int, wait_s: float = WAIT_S) -> float | None:
    """The median; None when they are not all answered within `wait_s` seconds."""
    from ps.transport.base import Message
    from ps.transport.zmq import ZmqTransport
    from ps.types import server_peer, worker_peer
    from ps.wire import JOB_BYTES

    job, there, took_s = secrets.token_bytes(JOB_BYTES), server_peer(0), []
    with closing(ZmqTransport(there, job)) as server:
        place = {there: server.listen(f"tcp://{HOST}:0")}
        with closing(ZmqTransport(worker_peer(0), job, place.get)) as worker:
            echo = Thread(target=_echo, args=(server, worker), daemon=True)
            echo.start()
            deadline = time.monotonic() + wait_s
            for _ in range(count):
                began = time.perf_counter()
                worker.send_nowait(there, Message(b"ping"))
                if worker.recv(deadline - time.monotonic()) is None:
                    return None
                took_s.append(time.perf_counter() - began)
        server.wake()
        echo.join(WAIT_S)
    return median(took_s) * 1e6


def _echo(server: ZmqTransport, worker: ZmqTransport) -> None:
    from ps.transport.base import Unreachable

    while not worker.is_closed:
        if (item := server.recv(WAIT_S)) is not None:
            with suppress(Unreachable):  # the time is up, and nobody waits for it
                server.send_nowait(*item)


def control_plane() -> Iterator[Finding]:
    """A controller of our own, asked for its status over gRPC."""
    from ps.config import RunConfig
    from ps.control.commands import fetch_status
    from ps.control.service import ControlServer

    with closing(ControlServer(RunConfig())) as server:
        address = server.start()
        began = time.perf_counter()
        fetch_status(address, WAIT_S)
        took_ms = (time.perf_counter() - began) * 1e3
    yield ok("control plane", f"a controller on {HOST} answered over gRPC in {took_ms:.0f} ms")


def port_free(port: int) -> Finding:
    """Whether a controller may listen there."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, port))
            place.listen()
        except OSError as error:
            remedy = "if that is not your controller, give psctl controller another --port"
            return warning(f"port {port}", f"taken on {HOST} ({error.strerror})", remedy)
    return ok(f"port {port}", f"free on {HOST}, for psctl controller")
