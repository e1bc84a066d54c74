"""Reads a recording: entry after entry, each checked; an end that came too early is told apart from damage."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ps.compression.choice import Frame
from ps.errors import ConfigError, FrameError
from ps.record.entries import CRC, HEADER_LINE_MAX, PREFIX, PREFIX_BYTES, Entry, Header, file_of, unpacked


class Recording:
    """The file of one server."""

    def __init__(self, path: Path) -> None:
        """Raises: ConfigError naming the file, when it cannot be read or is no recording of this version."""
        self.path = path
        try:
            self.nbytes = path.stat().st_size
            with path.open("rb") as file:
                line = file.readline(HEADER_LINE_MAX)
        except OSError as error:
            raise ConfigError(f"{path}: expected the recording of a server, got {error.strerror}") from None
        self.header, self._begin = Header.read(path, line), len(line)

    def entries(self, progress: Callable[[int], object]) -> Iterator[tuple[Entry, float, list[Frame]]]:
        """Each with its seconds and frames, up to the end or to where the file was cut off.

        progress: is told how many bytes of the file were read. Raises: FrameError naming the entry that is damaged.
        """
        number, at = 0, self._begin
        with self.path.open("rb") as file:
            file.seek(at)
            while (prefix := file.read(PREFIX_BYTES)) and len(prefix) == PREFIX_BYTES:
                number += 1
                header_bytes, body_bytes, crc = PREFIX.unpack_from(prefix)
                if CRC.unpack_from(prefix, PREFIX.size)[0] != zlib.crc32(prefix[: PREFIX.size]):
                    raise self._damaged(number, at, "its length is not the one that was written")
                at += PREFIX_BYTES + header_bytes + body_bytes
                if at > self.nbytes:
                    return
                header, body = file.read(header_bytes), np.empty(body_bytes, np.uint8)
                file.readinto(body.data)
                if zlib.crc32(body.data, zlib.crc32(header)) != crc:
                    raise self._damaged(number, at, "its bytes are not those that were written")
                try:
                    entry = unpacked(header, body)
                except FrameError as error:
                    raise self._damaged(number, at, str(error)) from None
                progress(at)
                yield entry

    def _damaged(self, number: int, at: int, why: str) -> FrameError:
        return FrameError(f"{self.path}: entry {number}, before byte {at}, is damaged: {why}")


def recordings(folder: Path) -> list[Recording]:
    """Those of all servers of a run, in order. Raises: ConfigError naming the file that is missing or does not fit."""
    if not folder.is_dir():
        got = f"a file; give its folder, {folder.parent}" if folder.is_file() else "none"
        raise ConfigError(f"{folder}: expected the folder of a recording, made by psctl run --record, got {got}")
    first = Recording(file_of(folder, 0))
    found = [first, *(Recording(file_of(folder, shard)) for shard in range(1, first.header.config.servers))]
    for shard, one in enumerate(found):
        if (one.header.shard, one.header.job) != (shard, first.header.job):
            raise ConfigError(f"{one.path}: expected server {shard} of the run of {first.path.name}, got another one's")
    return found
