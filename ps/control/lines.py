"""One peer's stream as the hub sees it: a name, a state, and what is still to go out, in order and bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Literal

from ps.control.hello import Hello
from ps.messages import Enroll
from ps.types import PeerId, server_peer, worker_peer
from ps.wire import HEADER_BYTES_MAX

BYTES_MAX = HEADER_BYTES_MAX  # not yet taken by the peer; one frame of any size is taken when nothing else waits
FRAMES_MAX = 1 << 16


class Outbox:
    """Frames on their way to one peer. For the loop's thread only."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._nbytes = 0
        self._ends = False
        self._news = asyncio.Event()

    def takes(self, nbytes: int) -> bool:
        """Whether the peer is near enough for one more frame of this size."""
        return not self._frames or (self._nbytes + nbytes <= BYTES_MAX and len(self._frames) < FRAMES_MAX)

    def put(self, frame: bytes) -> None:
        """Queues the frame."""
        self._frames.append(frame)
        self._nbytes += len(frame)
        self._news.set()

    def end(self) -> None:
        """Nothing more will be put."""
        self._ends = True
        self._news.set()

    async def take(self) -> bytes | None:
        """The next frame; None after the last one. Waits as long as there is neither."""
        while not self._frames:
            if self._ends:
                return None
            self._news.clear()
            await self._news.wait()
        frame = self._frames.popleft()
        self._nbytes -= len(frame)
        return frame


class Line:
    """One stream. The hub owns its fields; the service writes what is in the outbox until it ends or is cut."""

    def __init__(self, number: int) -> None:
        self.name = PeerId(f"line:{number}")  # what answers to this very stream go to
        self.state: Literal["new", "waiting", "joined", "over"] = "new"
        self.hello: Hello | None = None
        self.shard = -1
        self.rank = -1  # once the controller has given it
        self.outbox = Outbox()
        self.why = "its connection ended"  # what its loss is put down to
        self.cut = asyncio.Event()  # do not wait for the peer any longer
        self.late: asyncio.TimerHandle | None = None

    @property
    def role(self) -> str:
        """Empty before its Hello."""
        return self.hello.role if self.hello is not None else ""

    @property
    def machine(self) -> str:
        """Where it runs: peers that share memory have the same; empty before its Hello."""
        return self.hello.machine if self.hello is not None else ""

    @property
    def memory_available(self) -> int:
        """Bytes that were free there when it said Hello; 0: not known."""
        return self.hello.memory_available if self.hello is not None else 0

    def is_of_worker(self, rank: int) -> bool:
        """It is the stream of this worker, which has enrolled."""
        return self.role == "worker" and self.rank == rank >= 0

    @property
    def title(self) -> PeerId:
        """Who it is, for the status."""
        if self.rank >= 0:
            return worker_peer(self.rank)
        return server_peer(self.shard) if self.shard >= 0 else self.name

    def set_late(self, late: asyncio.TimerHandle | None) -> None:
        """Replaces its deadline."""
        if self.late is not None:
            self.late.cancel()
        self.late = late


def misplaced(line: Line, body: Any) -> str | None:
    """Why this message is not this peer's to say; None: it is."""
    shard = getattr(body, "shard", None)
    if shard is not None and shard != line.shard:
        return f"{type(body).__name__}.shard: expected {line.shard}, the sender's own, got {shard}"
    if isinstance(body, Enroll):
        if body.reader != (line.role == "reader") or line.role == "server":
            return f"Enroll.reader: expected {line.role == 'reader'} from a {line.role}, got {body.reader}"
        if line.rank >= 0:
            return f"Enroll: expected one for each connection, got another from worker {line.rank}; connect again"
    elif hasattr(body, "incarnation") and hasattr(body, "worker") and not line.is_of_worker(body.worker):
        sender = f"worker {line.rank}" if line.role == "worker" else f"a {line.role}"
        return f"{type(body).__name__}.worker: expected the sender, {sender}, got {body.worker}; enroll first"
    return None
