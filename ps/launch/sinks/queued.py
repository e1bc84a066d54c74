"""A sink in a thread of its own: whatever it does, nobody waits for it, and nothing but a warning comes of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from ps.launch.sinks.base import Sink

VALUES_MAX = 1 << 17  # that wait for a sink; twice what the controller keeps between two looks
Call = Callable[[Sink], None]


class Queued:
    """One sink behind a bounded queue. All but its thread belongs to one thread, the caller's.

    values_max: that wait; what comes beyond is left out, and counted.
    """

    def __init__(self, name: str, sink: Sink, values_max: int = VALUES_MAX) -> None:
        self.name, self.dropped = name, 0
        self._values_max = values_max
        self._calls: deque[tuple[Call, int]] = deque()
        self._waiting = 0  # values in calls that are not done
        self._changed = threading.Condition()
        self._is_ending = False
        self._failed = False
        self._warnings: list[str] = []
        self._thread = threading.Thread(target=self._work, args=(sink,), name=f"ps log to {name}", daemon=True)
        self._thread.start()

    def put(self, call: Call, values: int = 0, last: bool = False) -> None:
        """Hands over a call that brings so many values; none comes after the last. Never waits."""
        with self._changed:
            self._is_ending = last
            if self._failed:
                return
            if values and self._waiting + values > self._values_max:
                if not self.dropped:
                    self._warn("it is behind; values are left out from here on, their number is said at the end")
                self.dropped += values
                return
            self._waiting += values
            self._calls.append((call, values))
            self._changed.notify()

    def warnings(self) -> list[str]:
        """What is to be said to the user since the last call; the thread itself says nothing."""
        with self._changed:
            said, self._warnings = self._warnings, []
        return said

    def close(self, deadline: float) -> None:
        """Waits until the last call is done, at the longest until then (`time.monotonic`)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            if self._thread.is_alive() and not self._failed:
                self._failed = True
                self._warn(f"it has not ended in time; {self._waiting} values may be missing there")
            if self.dropped:
                self._warn(f"{self.dropped} values were left out")

    def _work(self, sink: Sink) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls)
                call, values = self._calls.popleft()
            try:
                call(sink)
            except BaseException as error:  # of somebody's library, SystemExit among them
                with self._changed:
                    self._give_up(error)
                return
            with self._changed:
                self._waiting -= values
                if self._is_ending and not self._calls:
                    return

    def _give_up(self, error: BaseException) -> None:
        words = str(error).strip().partition("\n")[0] or type(error).__name__
        if not self._failed:
            self._warn(f"{words}; nothing more goes there, the run goes on")
        self._failed = True
        self._calls.clear()

    def _warn(self, text: str) -> None:
        self._warnings.append(f"--log-to {self.name}: {text}")
