"""Dialling a host and port over TCP: which addresses were tried, how long it took, what went wrong."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from threading import Thread
from typing import Literal, TypeVar

from ps.doctor.finding import WAIT_S

T = TypeVar("T")
Trouble = Literal["", "unknown", "refused", "silent"]  # no such name; nobody listens; no answer


@dataclass(frozen=True, slots=True)
class Reach:
    """tried: the addresses, as "ip:port". here: the address belongs to this machine."""

    tried: tuple[str, ...]
    took_s: float
    trouble: Trouble = ""
    why: str = ""
    here: bool = False

    def __str__(self) -> str:
        tried = ", ".join(self.tried) or "no address"
        return f"tried {tried}: {self.why or 'reached'} after {self.took_s * 1e3:.1f} ms"


def dial(host: str, port: int, wait_s: float = WAIT_S) -> Reach:
    """Connects and hangs up; all addresses of the host together get `wait_s` seconds."""
    began = time.monotonic()
    tried: list[str] = []
    why: OSError = OSError(errno.EADDRNOTAVAIL, "has no address")
    try:
        infos = within(wait_s, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        for family, kind, protocol, _, place in dict.fromkeys(infos):
            tried.append(f"[{place[0]}]:{port}" if family == socket.AF_INET6 else f"{place[0]}:{port}")
            with socket.socket(family, kind, protocol) as way:
                way.settimeout(max(0.001, began + wait_s - time.monotonic()))
                try:
                    way.connect(place)
                except OSError as error:
                    why = error
                    continue
                here = way.getsockname()[0] == way.getpeername()[0]
                return Reach(tuple(tried), time.monotonic() - began, here=here)
    except OSError as error:
        why = error
    return Reach(tuple(tried), time.monotonic() - began, trouble_of(why), words_of(why))


def trouble_of(error: OSError) -> Trouble:
    """What kind it is, so that a remedy can be named."""
    if isinstance(error, socket.gaierror):
        return "unknown"
    return "refused" if isinstance(error, ConnectionRefusedError) else "silent"


def words_of(error: OSError) -> str:
    """`Connection refused`."""
    return "no answer" if isinstance(error, TimeoutError) else error.strerror or os.strerror(error.errno or 0)


def within(seconds: float, work: Callable[[], T]) -> T:
    """Does what has no deadline of its own. Raises: TimeoutError; the thread is then left behind."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return done.result(seconds)
    except FutureTimeout:
        raise TimeoutError("no answer") from None
