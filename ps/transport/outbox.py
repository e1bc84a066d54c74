"""What a full transport has refused, kept in order until there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ps.errors import OutboxFull
from ps.metrics import Metrics
from ps.transport.base import Message, Unreachable
from ps.types import PeerId


class Outbox:
    """Sends without waiting; nothing to one peer overtakes. What is meant for a peer that is gone is let go of.

    A lost peer is silence here: deadlines and the controller name it.
    """

    def __init__(self, send: Callable[[PeerId, Message], None], metrics: Metrics) -> None:
        self._send, self._metrics = send, metrics
        self._waiting: dict[PeerId, deque[Message]] = {}

    def __bool__(self) -> bool:
        """Somebody reads slowly: `retry` should be called soon."""
        return bool(self._waiting)

    def send(self, to: PeerId, message: Message, *, keep: bool = True) -> None:
        """Sends, or keeps it for `retry`. keep=False: lets go of it instead, as who reads nothing must cost nothing."""
        self._metrics.count("header_bytes", len(message.header), direction="sent")
        if to not in self._waiting and self._is_taken(to, message):
            return
        if keep:
            self._waiting.setdefault(to, deque()).append(message)
        else:
            message.release()

    def retry(self) -> None:
        """Sends what waits, as far as there is room now."""
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
