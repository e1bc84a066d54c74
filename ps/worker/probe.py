"""How fast the link to a server is: one buffer there and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ps import wire
from ps.messages import Probe
from ps.transport.base import Message
from ps.types import server_peer

if TYPE_CHECKING:
    from ps.worker.runtime import Worker

SIZES = (1 << 10, 1 << 20)  # bytes; the first pays for connecting, the difference of the two is the link
TRIES = 3  # of each size; whatever disturbs one makes it slower
LINK_MAX = 1e12  # bytes per second; where no time passes at all


def measure(worker: Worker, timeout_s: float) -> None:
    """Once per worker; schemes are chosen by it from then on. Raises: DeadlineError."""
    if not worker.link:
        worker.link = measured(worker, timeout_s)
        worker.schemes.machine = replace(worker.schemes.machine, link_bytes_per_s=worker.link)


def measured(worker: Worker, timeout_s: float) -> float:
    """Bytes per second to server 0 and back. Raises: DeadlineError."""
    _there_and_back(worker, SIZES[0], timeout_s)  # connects
    small_s, large_s = (min(_there_and_back(worker, size, timeout_s) for _ in range(TRIES)) for size in SIZES)
    passed = large_s - small_s
    return min(2 * (SIZES[1] - SIZES[0]) / passed, LINK_MAX) if passed > 0 else LINK_MAX


def _there_and_back(worker: Worker, size: int, timeout_s: float) -> float:
    """Seconds of the last try; one that is lost is tried again, under another number."""
    first = last = worker.probed
    began = 0.0

    def ask() -> None:
        nonlocal began, last
        last, began = last + 1, worker.port.now()
        worker.send(server_peer(0), Message(wire.encode(worker.job, Probe(last)), [np.zeros(size, np.uint8)]))

    ask()
    silent = "the link: server 0 has not answered a probe"
    worker.wait(lambda: worker.probed > first, timeout_s, lambda: silent, ask)
    worker.probed = last  # what still comes of this size is of no interest
    return worker.port.now() - began
