"""The bytes of a recording: a header line, then entries, each with its length and checksums.

    {"recording": 1, "shard": 0, "config": {...}, ...} crc32 in hex, newline
    entry, entry, ..., the last of a complete recording an End

An entry is PREFIX (bytes of its header, bytes of its buffers, crc32 of both, crc32 of the prefix itself), a MessagePack
header (kind, seconds since the first entry, fields, [(codec, bytes, bytes of the shared buffer or -1), ...]) and the
raw buffers of its frames. Fields are packed and checked as those of messages are (`ps.wire`); nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import reprlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgpack
import numpy as np

from ps import wire
from ps.compression.choice import Frame
from ps.config import RunConfig
from ps.errors import ConfigError, FrameError
from ps.messages import Number, Specs
from ps.server.ledger import (
    Added,
    Adopted,
    Commit,
    Finished,
    Initialised,
    Joined,
    Left,
    LrChanged,
    Record,
    Refused,
    Sent,
)
from ps.types import UInt8

VERSION = 1
PREFIX = struct.Struct("<IQI")
CRC = struct.Struct("<I")
PREFIX_BYTES = PREFIX.size + CRC.size
HEADER_LINE_MAX = 16 << 20  # bytes
ALIGNED = 16  # bytes, as NumPy's own arrays are


@dataclass(frozen=True, slots=True)
class Registered:
    """Parameters of the job that are new to the server; the next Added says which of their slices live there."""

    specs: Specs


@dataclass(frozen=True, slots=True)
class End:
    """Nothing follows. checksum: crc32 of the values and state that the server ended with."""

    checksum: Number


Entry: TypeAlias = Record | Registered | End
KINDS: tuple[type[Any], ...] = (
    Commit, Refused, Finished, Joined, Left, Adopted, Added, Initialised, LrChanged, Sent, Registered, End,
)  # fmt: skip
KIND_OF = {kind: number for number, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Header:
    """What a recording says of itself. job: of the run, in hex, the same in the files of all its servers."""

    shard: int
    job: str
    config: RunConfig

    def line(self) -> bytes:
        """The first line of the file."""
        config = json.loads(self.config.model_dump_json())
        text = json.dumps({"recording": VERSION, "shard": self.shard, "job": self.job, "config": config})
        return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()

    @classmethod
    def read(cls, path: Path, line: bytes) -> Header:
        """Raises: ConfigError naming the file: it is no recording, damaged, or of another version."""
        text, _, crc = line.removesuffix(b"\n").rpartition(b" ")
        if not line.startswith(b'{"recording": '):
            raise ConfigError(f"{path}: expected a recording of psctl run --record, got another file")
        if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
            raise ConfigError(f"{path}: expected a whole first line, got one that is cut off or damaged")
        said = json.loads(text)
        if said["recording"] != VERSION:
            raise ConfigError(
                f"{path}: expected a recording of version {VERSION}, got version {said['recording']}; replay it with "
                f"the release that made it"
            )
        try:
            config = RunConfig.check(said["config"])
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        return cls(said["shard"], said["job"], config)


def file_of(folder: Path, shard: int) -> Path:
    """Where the server that holds this shard records."""
    return folder / f"server-{shard}.record"


def new_folder(what: str, folder: Path) -> Path:
    """Makes it. Raises: ConfigError, beginning with `what`, when it exists or cannot be made."""
    try:
        folder.mkdir()
    except FileExistsError:
        raise ConfigError(
            f"{what}: expected a folder that does not exist yet, got {str(folder)!r}; nothing is overwritten"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{what}: expected a folder that can be made, got {str(folder)!r}: {error.strerror}"
        ) from None
    return folder


def packed(entry: Entry, seconds: float, frames: Sequence[Frame]) -> tuple[bytes, list[memoryview]]:
    """The header of an entry, and its buffers as bytes, which are those of the frames and not copied."""
    buffers: list[memoryview] = []
    sizes = []
    for frame in frames:
        shared = () if frame.shared is None else (frame.shared,)
        parts = [memoryview(array.reshape(-1).view(np.uint8)) for array in (frame.data, *shared)]
        buffers += parts
        sizes.append((frame.codec, parts[0].nbytes, parts[1].nbytes if shared else -1))
    header: bytes = msgpack.packb([KIND_OF[type(entry)], seconds, wire.pack_fields(entry), sizes])
    return header, buffers


def prefix_of(header: bytes, buffers: Sequence[memoryview]) -> bytes:
    """What stands before them."""
    crc = zlib.crc32(header)
    for buffer in buffers:
        crc = zlib.crc32(buffer, crc)
    prefix = PREFIX.pack(len(header), sum(buffer.nbytes for buffer in buffers), crc)
    return prefix + CRC.pack(zlib.crc32(prefix))


def unpacked(header: bytes, body: UInt8) -> tuple[Entry, float, list[Frame]]:
    """The entry, its seconds, its frames. Raises: FrameError for bytes that `packed` does not make."""
    try:
        kind, seconds, fields, sizes = msgpack.unpackb(header)
        cls = KINDS[kind]
        rows = [(int(codec), int(data), int(shared)) for codec, data, shared in sizes]
    except Exception as error:  # msgpack raises many kinds, all meaning the same here
        raise FrameError(f"expected the header of an entry, got {type(error).__name__}") from None
    claimed = sum(data + max(shared, 0) for _, data, shared in rows)
    if type(seconds) is not float or not math.isfinite(seconds):
        raise FrameError(f"expected finite seconds, got {reprlib.repr(seconds)}")
    if (least := min((data for _, data, _ in rows), default=0)) < 0:
        raise FrameError(f"expected sizes of buffers >= 0, got {least}")
    if claimed != body.nbytes:
        raise FrameError(f"expected {claimed} bytes of buffers, got {body.nbytes}")
    frames, at = [], 0
    for codec, data, shared in rows:
        split, end = at + data, at + data + max(shared, 0)
        frames.append(Frame(codec, _aligned(body, at, split), _aligned(body, split, end) if shared >= 0 else None))
        at = end
    return wire.unpack_fields(cls, fields), seconds, frames


def _aligned(body: UInt8, first: int, last: int) -> UInt8:
    """These bytes, where an array of any dtype may begin."""
    part = body[first:last]
    return part.copy() if first % ALIGNED else part
