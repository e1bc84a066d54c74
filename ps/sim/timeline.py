"""Virtual time: what happens when, one thing after the other."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timeline:
    """Events by time; equal times in the order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    def at(self, time: float, do: Callable[[], None]) -> None:
        """Does something at a virtual time, now if that is past."""
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, do))

    @property
    def is_empty(self) -> bool:
        """Nothing will ever happen."""
        return not self._heap

    def step(self) -> None:
        """One event."""
        time, _, do = heapq.heappop(self._heap)
        if time > self.now:
            self.now = time
        do()

    def run_out(self) -> None:
        """All that ever happens."""
        heap, pop = self._heap, heapq.heappop
        while heap:
            time, _, do = pop(heap)
            if time > self.now:
                self.now = time
            do()
