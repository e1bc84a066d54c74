"""What workers have logged, until the owner of the run takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

LOGS_MAX = 1 << 16  # of `Logged`: some minutes of a thousand workers, should nobody take them


class Logged(NamedTuple):
    """One `client.log` call."""

    at: float  # when it was logged, by time.monotonic() of the controller's process
    rank: int
    clock: int
    values: Mapping[str, float]


class Logs:
    """A bounded queue. When nobody takes what is logged, the oldest goes first, and is counted."""

    def __init__(self) -> None:
        self.dropped = 0
        self._queue: deque[Logged] = deque()

    def put(self, logged: Logged) -> None:
        """Takes one in; never waits."""
        if len(self._queue) >= LOGS_MAX:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(logged)

    def take(self) -> list[Logged]:
        """All that came since the last call, in that order."""
        taken = list(self._queue)
        self._queue.clear()
        return taken
