"""Writes what one server applies to its file, in a thread of its own: the server waits for the disk only when it must.

At most QUEUE_BYTES wait to be written (one entry of any size is always taken). When there is no room the server waits,
so training goes at the pace of the disk; after WAIT_S in one place, or when the disk refuses, the recording ends there,
with one warning, and training goes on without it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ps.compression.choice import Frame
from ps.errors import ConfigError
from ps.record.entries import End, Entry, Header, file_of, packed, prefix_of

log = logging.getLogger("ps")

QUEUE_BYTES = 256 << 20
BATCH_BYTES = 1 << 20  # are written at once; fewer after FLUSH_S
FLUSH_S = 0.1
ENTRY_BYTES = 1 << 10  # that Python takes for an entry, beside what is written
WAIT_S = 10.0  # without room for one more entry; at the end also for all that is left


class _Block(NamedTuple):
    header: bytes
    buffers: list[memoryview]
    done: Sequence[Callable[[], None]]

    @property
    def nbytes(self) -> int:
        return ENTRY_BYTES + len(self.header) + sum(buffer.nbytes for buffer in self.buffers)


class Recorder:
    """One recording. All calls come from the server's thread, and so do those of `done`."""

    def __init__(self, folder: Path, header: Header) -> None:
        """Raises: ConfigError when the file exists, or cannot be made."""
        self.path = file_of(folder, header.shard)
        self._written = 0
        try:
            self._file = self.path.open("xb")
            self._file.write(header.line())
            self._file.flush()
        except OSError as error:
            raise ConfigError(f"record: expected a new file {str(self.path)!r}, got {error}") from None
        self._began: float | None = None
        self._queue: deque[_Block] = deque()  # the first one is being written
        self._queued_bytes = 0
        self._done: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closing = self._broken = False
        self._thread = threading.Thread(target=self._write_all, name=f"ps {self.path.name}", daemon=True)
        self._thread.start()

    def add(
        self, entry: Entry, now: float, frames: Sequence[Frame] = (), done: Sequence[Callable[[], None]] = ()
    ) -> None:
        """Takes an entry down. Its frames must not change until all of `done` are called."""
        self._call_done()
        if self._broken or self._closing:
            self._done.extend(done)
            self._call_done()
            return
        if self._began is None:
            self._began = now
        block = _Block(*packed(entry, now - self._began, frames), done)
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(block.nbytes), WAIT_S):
                self._break(f"the disk is behind by {self._queued_bytes >> 20} MiB for {WAIT_S:g} s")
            self._queue.append(block)
            self._queued_bytes += block.nbytes
            if self._queued_bytes >= BATCH_BYTES:
                self._changed.notify_all()

    def end(self, checksum: int, now: float) -> None:
        """The recording is complete: its server has ended with values and state of this checksum."""
        self.add(End(checksum), now)
        self.close()

    def close(self) -> None:
        """Writes what is left, for at most WAIT_S. Without an `end` the recording stays one that is cut off."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(WAIT_S)
        with self._changed:
            if self._thread.is_alive():
                self._break(f"the disk has not taken the last {self._queued_bytes >> 20} MiB in {WAIT_S:g} s")
        self._call_done()

    def _has_room(self, nbytes: int) -> bool:
        return self._broken or not self._queue or self._queued_bytes + nbytes <= QUEUE_BYTES

    def _call_done(self) -> None:
        while self._done:
            self._done.popleft()()

    def _break(self, why: str) -> None:
        """Nothing more is written: a gap would be worse than an end. The lock is held."""
        if not self._broken:
            self._broken = True
            log.warning("the recording %s ends after %d records: %s; training goes on", self.path, self._written, why)

    # ---- the thread that writes --------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        """Until all is written that was added before `close`. Many small entries are one turn at the lock."""
        over = False
        while not over:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._queued_bytes >= BATCH_BYTES, FLUSH_S)
                over = self._closing
            while self._queue:
                self._write(self._queue[0])
            self._disk(self._file.flush)
        try:
            self._file.close()
        except OSError as error:
            with self._changed:
                self._break(error.strerror or str(error))

    def _write(self, block: _Block) -> None:
        """The first of the queue, which leaves it."""
        parts: list[bytes | memoryview] = [prefix_of(block.header, block.buffers), block.header, *block.buffers]
        self._disk(lambda: self._file.writelines(parts))
        self._written += not self._broken
        self._done.extend(block.done)
        with self._changed:
            self._queue.popleft()
            self._queued_bytes -= block.nbytes
            self._changed.notify_all()

    def _disk(self, use: Callable[[], object]) -> None:
        """Does it, unless the disk has refused before."""
        try:
            if not self._broken:
                use()
        except OSError as error:
            with self._changed:
                self._break(error.strerror or str(error))
