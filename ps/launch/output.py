"""What children print: one thread reads all of it, line by line, for the terminal, a log file each, and the end."""

from __future__ import annotations

import os
import selectors
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

LINE_BYTES = 64 * 1024  # a longer line is shown in pieces
CHUNK_BYTES = 64 * 1024  # what a pipe holds
TAIL_LINES = 200  # of each child, in memory: the last words do not depend on a disk

_TRACEBACK = "Traceback (most recent call last):"
_JOINTS = ("The above exception was the direct cause", "During handling of the above exception")


class LogFile:
    """A file that may fail (full disk, no rights): then it says so once and takes nothing more."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self.path, self._warn = path, warn
        self._fd = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            self._give_up(error)

    def write(self, data: bytes) -> None:
        """Appends, unbuffered: a log that is followed is never late."""
        try:
            while data and self._fd >= 0:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._warn(f"{self.path} is not written any further: {error.strerror or error}; the run goes on")


class Stream:
    """One child's output."""

    def __init__(self, name: str, fd: int, log: LogFile | None) -> None:
        self.name, self.fd, self.log = name, fd, log
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.ended = threading.Event()
        self._rest = b""

    def lines(self, data: bytes) -> list[str]:
        """The lines that `data` completes; `b""` is the end and completes what is left."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if (not data and self._rest) or len(self._rest) > LINE_BYTES:
            whole.append(self._rest)
            self._rest = b""
        pieces = [line[i : i + LINE_BYTES] for line in whole for i in range(0, max(1, len(line)), LINE_BYTES)]
        # A progress bar overwrites its line: only its last state counts, as on a terminal.
        found = [piece.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace") for piece in pieces]
        self.tail.extend(found)
        return found


class Output:
    """Reads every child's pipe in a thread of its own, so that no child ever waits for this process."""

    def __init__(self, show: Callable[[str, str], None]) -> None:
        """show(name, line) is called in the reading thread."""
        self._show = show
        self._new: deque[Stream] = deque()
        self._closing = False
        self._wake_r, self._wake_w = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="ps output", daemon=True)
        self._thread.start()

    def add(self, name: str, fd: int, log: LogFile | None) -> Stream:
        """Takes over `fd` and `log`, until the last holder of the pipe's other end is gone."""
        stream = Stream(name, fd, log)
        self._new.append(stream)
        os.write(self._wake_w, b".")
        return stream

    def close(self) -> None:
        """Ends the thread; what is not read yet is lost."""
        if not self._closing:
            self._closing = True
            os.write(self._wake_w, b".")
            self._thread.join()
            self._selector.close()
            os.close(self._wake_r)
            os.close(self._wake_w)

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_r, 4096)
                    while self._new:
                        stream = self._new.popleft()
                        self._selector.register(stream.fd, selectors.EVENT_READ, stream)
                else:
                    self._read(key.data)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._end(key.data)

    def _read(self, stream: Stream) -> None:
        data = os.read(stream.fd, CHUNK_BYTES)
        if data and stream.log is not None:
            stream.log.write(data)
        for line in stream.lines(data):
            self._show(stream.name, line)
        if not data:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        self._selector.unregister(stream.fd)
        os.close(stream.fd)
        if stream.log is not None:
            stream.log.close()
        stream.ended.set()


def last_words(tail: list[str], lines: int = 20) -> list[str]:
    """The last traceback with the ones it followed from, and all after it; without one, the last lines."""
    starts = [number for number, line in enumerate(tail) if is_traceback([line])]
    if not starts:
        return tail[-lines:]
    start = starts.pop()
    while starts and any(line.startswith(_JOINTS) for line in tail[max(0, start - 3) : start]):
        start = starts.pop()
    return tail[start:]


def is_traceback(lines: list[str]) -> bool:
    """They begin with one."""
    return bool(lines) and lines[0].startswith(_TRACEBACK)
