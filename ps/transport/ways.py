"""What `ZmqTransport` keeps of each peer, and of each message whose buffers libzmq still reads."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import zmq

from ps.transport.base import Message
from ps.types import Array, PeerId


@dataclass(eq=False)
class Way:
    """A way to one peer: its socket, and what of it is not yet sent."""

    to: PeerId
    socket: zmq.Socket[bytes]
    prefix: tuple[bytes, ...]  # the routing id, where the socket serves many peers
    endpoint: str = ""
    monitor: zmq.Socket[bytes] | None = None
    looked_at: float = 0.0  # when its monitor was last read
    down_since: float = float("inf")  # infinity: it is connected
    queued_bytes: int = 0  # of buffers that libzmq still reads


@dataclass(eq=False)
class Flight:
    """A message whose buffers libzmq still reads."""

    message: Message
    way: Way
    nbytes: int
    left: int  # buffers
    views: list[weakref.ref[Array]] = field(default_factory=list)
