"""How messages become bytes and back: a versioned MessagePack tuple, every field bounded and checked.

What goes to one peer at one time travels under one header: (version, job, (code, field, ...), (code, field, ...), ...).

A message class lists its fields with a *kind* from below (`clock: Annotated[int, INT64]`). Arrays travel as
little-endian bytes. Nothing is ever unpickled, and who does not name the job first gets no memory for a long header.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_type_hints

import msgpack
import numpy as np

from ps.errors import FrameError

WIRE_VERSION = 3
HEADER_BYTES_MAX = 64 << 20
JOB_BYTES = 16
BUFFERS_MAX = 64 << 10  # of one message
STRANGER_BYTES_MAX = 4 << 10  # of a header that does not begin as this job's do: read only to say what is wrong
PART_BYTES = 4 << 20  # larger payloads travel in several messages: one is worked on while the next is under way
LEAST_BYTES = 2 * PART_BYTES // BUFFERS_MAX  # what a slice counts for in a part, however few travel of it

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of field: how it is packed, and how what arrives is checked. `expected` is its wording in errors."""

    expected: str
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]  # raises ValueError, TypeError


def _integer(low: int, high: int) -> Kind:
    def unpack(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"an integer in [{low}, {high}]", int, unpack)


def _real(value: Any) -> float:
    if type(value) is not float or not math.isfinite(value):
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


def text(bytes_max: int) -> Kind:
    """A UTF-8 string of at most `bytes_max` bytes."""

    def unpack(value: Any) -> str:
        if type(value) is not str or len(value.encode()) > bytes_max:
            raise ValueError
        return value

    return Kind(f"text of at most {bytes_max} bytes", str, unpack)


def _array(dtype: str, low: int, high: int | None = None) -> Kind:
    wire = np.dtype(dtype)
    native = wire.isnative
    signs_only = dtype == "<i8" and low == 0 and high is None

    def pack(value: Any) -> bytes:
        return np.ascontiguousarray(value, wire).tobytes()

    def unpack(value: Any) -> Any:
        if type(value) is not bytes or len(value) % wire.itemsize:
            raise ValueError
        array = np.frombuffer(value, wire)
        if signs_only:  # the sign is in every eighth byte: for the short arrays of most messages far cheaper than min()
            if value and max(value[7::8]) > 0x7F:
                raise ValueError
        elif len(array) and (int(array.min()) < low or (high is not None and int(array.max()) > high)):
            raise ValueError
        return array if native else array.astype(wire.newbyteorder("="))

    return Kind(f"packed {dtype} >= {low}" + ("" if high is None else f" and <= {high}"), pack, unpack)


INT64 = _integer(-(2**63), 2**63 - 1)
COUNT_MAX = 2**62
COUNT = _integer(0, COUNT_MAX)  # clocks, versions, numbers, ids: one more is still an int64
RANK = _integer(-1, 2**31 - 1)  # -1: nobody in particular
REAL = Kind("a finite float", float, _real)
FLAG = Kind("a boolean", bool, _flag)
IDS_E = _array("<i8", 0)  # slice ids, ascending order is the sender's business
COUNTS_E = _array("<i8", 0)
CODES_E = _array("|u1", 1, 3)
CODECS_K = _array("|u1", 0)


def listing(of: type[Any], count_max: int) -> Kind:
    """A list of at most `count_max` dataclasses of one class, each packed as a tuple of its own fields."""

    def pack(value: Any) -> list[Any]:
        return [pack_fields(item) for item in value]

    def unpack(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > count_max:
            raise ValueError
        return tuple(unpack_fields(of, item) for item in value)

    return Kind(f"a list of at most {count_max} {of.__name__}", pack, unpack)


def optional(kind: Kind) -> Kind:
    """None, or a value of `kind`."""
    return Kind(
        f"none or {kind.expected}",
        lambda value: None if value is None else kind.pack(value),
        lambda value: None if value is None else kind.unpack(value),
    )


def tuple_of(kind: Kind, count_max: int) -> Kind:
    """A tuple of at most `count_max` values of `kind`."""

    def unpack(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > count_max:
            raise ValueError
        return tuple(kind.unpack(item) for item in value)

    return Kind(f"a list of at most {count_max}: {kind.expected}", lambda value: [kind.pack(v) for v in value], unpack)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is known of a message class: its fields with their kinds, and which of them are parallel."""

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    parallel: tuple[tuple[int, ...], ...]  # places of fields that must agree in length
    per_entry: tuple[int, ...]  # places of fields with as many entries as the slices (`_E`), or none
    entries: int  # place of a field with one entry per slice, or -1


_LAYOUTS: dict[type[Any], _Layout] = {}  # shared by the threads of a process: each entry is set once, whole


def _layout(cls: type[Any]) -> _Layout:
    layout = _LAYOUTS.get(cls)
    if layout is None:
        layout = _LAYOUTS[cls] = _read_layout(cls)
    return layout


def _read_layout(cls: type[Any]) -> _Layout:
    """What the annotations of a message class say.

    A field whose name ends in `_E` (one entry per slice) or `_P` is parallel to all others of that ending; one that
    ends in `_K` is as long as those of `_E`, or empty.
    """
    hints = get_type_hints(cls, include_extras=True)
    names = tuple(f.name for f in fields(cls))
    kinds = tuple(hints[name].__metadata__[0] for name in names)
    assert all(isinstance(kind, Kind) for kind in kinds), cls
    places = {axis: tuple(i for i, name in enumerate(names) if name.endswith(axis)) for axis in ("_E", "_P", "_K")}
    assert places["_E"] or not places["_K"], cls
    parallel = tuple(places[axis] for axis in ("_E", "_P") if len(places[axis]) > 1)
    return _Layout(names, kinds, parallel, places["_K"], places["_E"][0] if places["_E"] else -1)


def pack_fields(message: Any) -> list[Any]:
    """What MessagePack takes of a dataclass whose fields have kinds; `unpack_fields` makes it of that again."""
    layout = _layout(type(message))
    return [kind.pack(getattr(message, name)) for name, kind in zip(layout.names, layout.kinds, strict=True)]


def unpack_fields(cls: type[M], values: Any) -> M:
    """The inverse of `pack_fields`. Raises: FrameError naming class and field, what was expected and what came."""
    layout = _layout(cls)
    if type(values) is not list or len(values) != len(layout.names):
        raise FrameError(f"{cls.__name__}: expected {len(layout.names)} fields, got {_short(values)}")
    checked = []
    for name, kind, value in zip(layout.names, layout.kinds, values, strict=True):
        try:
            checked.append(kind.unpack(value))
        except (ValueError, TypeError):
            raise FrameError(f"{cls.__name__}.{name}: expected {kind.expected}, got {_short(value)}") from None
    _check_lengths(cls, layout, checked)
    return cls(*checked)


def _check_lengths(cls: type[Any], layout: _Layout, values: list[Any]) -> None:
    for places in layout.parallel:
        length = len(values[places[0]])
        if any(len(values[place]) != length for place in places):
            lengths = {layout.names[place]: len(values[place]) for place in places}
            raise FrameError(f"{cls.__name__}: expected arrays of equal length, got {lengths}")
    for place in layout.per_entry:
        length, entries = len(values[place]), len(values[layout.entries])
        if length not in (0, entries):
            raise FrameError(f"{cls.__name__}.{layout.names[place]}: expected 0 or {entries} entries, got {length}")


def _short(value: Any) -> str:
    if isinstance(value, bytes | list | dict):
        return f"{type(value).__name__} of length {len(value)}"
    return repr(value[:60] if isinstance(value, str) else value)[:60]


CODES: dict[int, type[Any]] = {}
CODE_OF: dict[type[Any], int] = {}


def message(code: int) -> Callable[[type[M]], type[M]]:
    """Class decorator: gives a message class its number on the wire."""

    def register(cls: type[M]) -> type[M]:
        assert code not in CODES, (code, cls)
        CODES[code] = cls
        CODE_OF[cls] = code
        return cls

    return register


def encode(job: bytes, *bodies: Any) -> bytes:
    """Header bytes of messages of the job with this 16-byte id, in order. Buffers behind it belong to the last."""
    packed: bytes = msgpack.packb([WIRE_VERSION, job, *([CODE_OF[type(body)], *pack_fields(body)] for body in bodies)])
    return packed


def claimed_job(header: bytes) -> bytes:
    """The job id that a header names, in which its sender can be answered; zeros where it names none."""
    first = header[:1]
    at = 1 if b"\x90" <= first <= b"\x9f" else {b"\xdc": 3, b"\xdd": 5}.get(first, 0)  # behind the tuple's length
    job = header[at + 1 : at + 3 + JOB_BYTES]  # behind the version
    is_there = at and len(job) == 2 + JOB_BYTES and job[:2] == bytes((0xC4, JOB_BYTES))
    return job[2:] if is_there else bytes(JOB_BYTES)


def decode(header: bytes, job: bytes) -> list[Any]:
    """The messages that `header` holds, at least one; all or none.

    Raises: FrameError naming the field, what was expected and what came; never anything else, for any bytes.
    """
    if len(header) > HEADER_BYTES_MAX:
        raise FrameError(f"header: expected at most {HEADER_BYTES_MAX} bytes, got {len(header)}")
    if len(header) > STRANGER_BYTES_MAX and claimed_job(header) != job:
        raise FrameError(f"job id: expected this job's first of all, got {len(header)} bytes without it")
    try:
        walk = msgpack.Unpacker(max_buffer_size=max(len(header), 1))
        walk.feed(header)
        walk.skip()  # lengths that are claimed and not there end here, before anything is made of them
        values = msgpack.unpackb(header, strict_map_key=True, use_list=True)
    except Exception as error:  # msgpack raises many kinds, all meaning the same here
        raise FrameError(f"header: expected one MessagePack tuple, got {type(error).__name__}") from None
    if type(values) is not list or len(values) < 3:
        raise FrameError(f"header: expected a tuple (version, job, message, ...), got {_short(values)}")
    version, theirs = values[:2]
    if version != WIRE_VERSION:
        raise FrameError(f"wire version: expected {WIRE_VERSION}, got {_short(version)}; run one release everywhere")
    if theirs != job:
        got = theirs.hex()[:8] if type(theirs) is bytes else _short(theirs)
        raise FrameError(f"job id: expected this job's, got {got}...; the peer belongs to another job")
    return [_unpack_message(message) for message in values[2:]]


def _unpack_message(values: Any) -> Any:
    if type(values) is not list or not values:
        raise FrameError(f"message: expected a tuple (code, field, ...), got {_short(values)}")
    code = values[0]
    cls = CODES.get(code) if type(code) is int else None
    if cls is None:
        raise FrameError(f"message code: expected one of {sorted(CODES)}, got {_short(code)}")
    return unpack_fields(cls, values[1:])
