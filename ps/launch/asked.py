"""A process that is asked to end by a signal, and would say by whom before it does."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOK_S = 0.5  # its thread looks so often whether it is still needed


class Asked:
    """While it is entered, the first SIGTERM or SIGINT becomes words; the second has its usual effect.

    For the main thread, entered before others are made. Until there is a `wake`, which another thread calls, there is
    nobody to say anything to: the process ends.
    """

    def __init__(self) -> None:
        self.by = ""  # "SIGTERM from pid 7 (bash) on host4"; empty: nobody has asked
        self.number = 0
        self.wake: Callable[[], None] | None = None
        self._left = threading.Event()
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Asked:
        # Blocked here and in all threads that are made from now on, the signal waits for the one thread that learns its
        # sender. A library's older thread may take it instead: then the handler hears of it, without a sender.
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=self._watch, name="ps signals", daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        self.give_back()

    def give_back(self) -> None:
        """The next signal has its usual effect."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._told(number, "")

    def _watch(self) -> None:
        while not self._left.is_set() and not self.by:
            found = signal.sigtimedwait(SIGNALS, LOOK_S)
            if found is not None and found.si_signo in SIGNALS:  # a debugger that attaches leaves anything there
                self._told(found.si_signo, f" from {sender(found.si_pid)}")

    def _told(self, number: int, whom: str) -> None:
        if not self.by:
            self.number = int(number)
            self.by = f"{signal.Signals(number).name}{whom} on {socket.gethostname()}"
            if self.wake is None:
                os._exit(128 + self.number)
            self.wake()


def sender(pid: int) -> str:
    """`pid 7 (bash)`."""
    if pid == 0:
        return "the kernel (a terminal's Ctrl-C) or outside of this container"
    if pid == os.getpid():
        return f"itself, pid {pid}"
    try:
        return f"pid {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    except OSError:  # it has ended
        return f"pid {pid}"
