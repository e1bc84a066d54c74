"""Measuring beside the training: a worker that tests its values would be a straggler of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

Figures = Mapping[str, float]
LAG_S = 0.5  # from a look at the values until its figures are logged: however long they took, if it was not longer


class Looks:
    """One look every so many seconds, in a thread; its figures are told LAG_S later, so that virtual time repeats."""

    def __init__(self, every_s: float) -> None:
        if every_s < LAG_S:
            raise SystemExit(f"--every: expected >= {LAG_S} seconds, got {every_s}")
        self._every_s, self._next_s, self._told_s = every_s, 0.0, 0.0
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[Figures] | None = None

    def ready(self, now_s: float) -> Figures | None:
        """Figures that are due to be logged. Called in every step."""
        if self._running is None or now_s < self._told_s:
            return None
        found, self._running = self._running.result(), None
        return found

    def is_due(self, now_s: float) -> bool:
        """Whether to look at the values of now."""
        return self._running is None and now_s >= self._next_s

    def begin(self, now_s: float, look: Callable[[], Figures]) -> None:
        """Takes a look at values that nobody changes any more."""
        self._next_s, self._told_s = now_s + self._every_s, now_s + LAG_S
        self._running = self._thread.submit(look)
