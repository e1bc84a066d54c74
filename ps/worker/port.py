"""Where a client waits: its one contact with time and the network. Real here; the simulator has its own."""

from __future__ import annotations

import time
from typing import Protocol

from ps.metrics import Metrics
from ps.transport.base import Message, Transport
from ps.types import PeerId


class Port(Protocol):
    """One peer's transport and clock, as a blocking caller sees them.

    releases_when_sent: a message that is not released has not left yet. Within a process its receiver holds it, too.
    """

    @property
    def releases_when_sent(self) -> bool: ...

    def now(self) -> float:
        """Seconds, monotonic."""

    def send_nowait(self, to: PeerId, message: Message) -> None:
        """As Transport.send_nowait."""

    def recv(self, until: float) -> tuple[PeerId, Message] | None:
        """The next message, or None at the time `until`; returns at once what is there."""

    def is_known_as(self, address: PeerId) -> None:
        """The controller has said what this peer's address is."""

    def measured(self, metrics: Metrics) -> None:
        """Tells the controller what this peer has measured, if that is another process."""

    def spend(self, seconds: float) -> None:
        """Lets declared compute time pass."""

    def close(self) -> None:
        """Ends this peer."""


class TransportPort:
    """A port on a real transport and the machine's clock."""

    releases_when_sent = False

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def now(self) -> float:
        return time.monotonic()

    def send_nowait(self, to: PeerId, message: Message) -> None:
        self._transport.send_nowait(to, message)

    def recv(self, until: float) -> tuple[PeerId, Message] | None:
        return self._transport.recv(max(0.0, min(until - time.monotonic(), 3600.0)))

    def is_known_as(self, address: PeerId) -> None:
        """It has its address from the start."""

    def measured(self, metrics: Metrics) -> None:
        """Whoever wants it has the object."""

    def spend(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        self._transport.close()
