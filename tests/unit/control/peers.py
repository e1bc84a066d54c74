"""A cluster of one real controller whose peers the test plays, message by message."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from ps import wire
from ps.config import RunConfig
from ps.control.hello import Hello, LinkEnd, Role
from ps.control.link import ControlLink
from ps.control.service import ControlServer
from ps.key import Key
from ps.messages import Done, Enroll, Enrolled, Place, Placed, Spec
from ps.types import WorkerId

WAIT_S = 20.0  # a deadline, not a pause: everything here answers within milliseconds

M = TypeVar("M")

SPEC = Spec("w", (3,), "float32", 1.0, None, None, None, False, 1 << 20)


class Peer:
    """One link, and what came over it."""

    def __init__(
        self, address: str, job: bytes, hello: Hello, timeout_s: float = WAIT_S, key: Key | None = None
    ) -> None:
        self.job = job
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.ends: queue.Queue[LinkEnd] = queue.Queue()
        self.incarnation = 0
        self.link = ControlLink(address, hello, self._take, self._end, timeout_s, key)

    def _take(self, encoded: bytes) -> None:
        for body in wire.decode(encoded, self.job):
            self.inbox.put(body)

    def _end(self, end: LinkEnd) -> None:
        self.ends.put(end)

    def say(self, body: Any) -> None:
        self.link.send(wire.encode(self.job, body))

    def expect(self, kind: type[M]) -> M:
        """The next message, which must be of this kind."""
        body = self.inbox.get(timeout=WAIT_S)
        assert isinstance(body, kind), body
        return body

    def end(self) -> tuple[str, bool]:
        """Reason and failed of the end that comes."""
        end = self.ends.get(timeout=WAIT_S)
        return end.reason, end.failed

    def enroll(self, rank: int = -1, nonce: int = 1) -> Enrolled:
        self.say(Enroll(WorkerId(rank), False, nonce))
        enrolled = self.expect(Enrolled)
        self.incarnation = enrolled.incarnation
        return enrolled


class Cluster:
    """A controller that listens; closes itself and its peers."""

    def __init__(
        self,
        servers: int = 1,
        workers: int = 1,
        hello_s: float = WAIT_S,
        hold: bool = False,
        key: Key | None = None,
        **options: Any,
    ) -> None:
        config = RunConfig(servers=servers, workers=workers, **options)
        self.server = ControlServer(config, hello_s=hello_s, hold=hold, key=key)
        self.key = key
        self.peers: list[Peer] = []
        self.server.start()

    def join(self, role: Role, **hello: Any) -> Peer:
        """A peer of this role; a server gets an address of its own."""
        if role == "server":
            hello.setdefault("data_address", f"tcp://127.0.0.1:{1000 + len(self.peers)}")
        peer = Peer(self.server.address, self.server.job, Hello(role, **hello), key=self.key)
        self.peers.append(peer)
        return peer

    def servers(self) -> list[Peer]:
        return [self.join("server") for _ in self.server.status()["servers"]]

    def workers(self, count: int) -> list[Peer]:
        """Enrolled, in rank order."""
        joined = [self.join("worker") for _ in range(count)]
        for peer in joined:
            peer.enroll()
        return joined

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status for which this holds."""
        deadline = time.monotonic() + WAIT_S
        while not holds(status := self.server.status()):
            assert time.monotonic() < deadline, status
        return status

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for peer in self.peers:
            peer.link.close()
        self.server.close()


def place(server: Peer, shard: int) -> None:
    """Plays the server's part of a registration."""
    server.say(Placed(shard, server.expect(Place).epoch))


def done(peer: Peer, rank: int, error: str = "") -> None:
    peer.say(Done(WorkerId(rank), peer.incarnation, error))
