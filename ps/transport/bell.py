"""What wakes a thread that waits at descriptors."""

from __future__ import annotations

import os
from contextlib import suppress


class Bell:
    """Wakes a `poll` from any thread. Its descriptor lives as long as anybody may ring."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        os.eventfd_write(self.fd, 1)

    def hush(self) -> None:
        """The next `poll` waits again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def __del__(self) -> None:
        os.close(self.fd)
