"""What is to leave: small messages to one peer travel together; what a full transport has refused waits in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ps import wire
from ps.errors import OutboxFull
from ps.metrics import Metrics
from ps.transport.base import Message, Unreachable
from ps.types import Array, PeerId


class Outbox:
    """Sends without waiting; nothing to one peer overtakes. What is meant for a peer that is gone is let go of.

    A lost peer is silence here: deadlines and the controller name it.
    """

    def __init__(self, send: Callable[[PeerId, Message], None], metrics: Metrics, job: bytes) -> None:
        self._send, self._metrics, self._job = send, metrics, job
        self._posted: dict[PeerId, list[Any]] = {}
        self._waiting: dict[PeerId, deque[Message]] = {}

    def __bool__(self) -> bool:
        """Somebody reads slowly: `retry` should be called soon."""
        return bool(self._waiting)

    def post(self, to: PeerId, body: Any) -> None:
        """A message without payload: leaves with `flush`, or ahead of the next that has one."""
        self._posted.setdefault(to, []).append(body)

    def send(self, to: PeerId, body: Any, buffers: Sequence[Array], release: Callable[[], None]) -> None:
        """A message with payload leaves now, and what was posted to the same peer ahead of it, under one header."""
        header = wire.encode(self._job, *self._posted.pop(to, ()), body)
        self._hand_over(to, Message(header, buffers, release), True)

    def flush(self) -> None:
        """Sends what was posted."""
        if self._posted:
            posted, self._posted = self._posted, {}
            for to, bodies in posted.items():
                self._hand_over(to, Message(wire.encode(self._job, *bodies)), True)

    def hand_over(self, to: PeerId, message: Message, *, keep: bool = True) -> None:
        """Sends, or keeps it for `retry`. keep=False: lets go of it instead, as who reads nothing must cost nothing."""
        self.flush()
        self._hand_over(to, message, keep)

    def _hand_over(self, to: PeerId, message: Message, keep: bool) -> None:
        self._metrics.count("header_bytes", len(message.header), direction="sent")
        if to not in self._waiting and self._is_taken(to, message):
            return
        if keep:
            self._waiting.setdefault(to, deque()).append(message)
        else:
            message.release()

    def retry(self) -> None:
        """Sends what waits, as far as there is room now."""
        if not self._waiting:
            return
        for to, messages in list(self._waiting.items()):
            while messages and self._is_taken(to, messages[0]):
                messages.popleft()
            if not messages:
                del self._waiting[to]

    def _is_taken(self, to: PeerId, message: Message) -> bool:
        try:
            self._send(to, message)
        except OutboxFull:
            return False
        except Unreachable:
            message.release()
        return True
