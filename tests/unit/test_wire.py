"""Headers: what goes in comes out; whatever else comes in is refused in words, without taking memory for it."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from types import FrameType
from typing import Annotated, Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps import wire
from ps.errors import FrameError
from ps.messages import Gap, Join, Log, Pull, Push, Rate, Register, Spec, Stop, Values, Verdicts
from ps.types import Clock, WorkerId

JOB = bytes(range(16))
OTHER_JOB = bytes(16)


def ids(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


JOIN = Join(WorkerId(3), 7)
PUSH = Push(WorkerId(3), 7, Clock(5), 0.5, ids(1, 2), ids(8, 9), ids(4, 4))
SPEC = Spec("w", (2, 3), "float32", 1.0, None, None, None, False, 1 << 20)


def packed(*values: Any) -> bytes:
    """A header of one message of these raw values: (code, field, field, ...)."""
    header: bytes = msgpack.packb([wire.WIRE_VERSION, JOB, values])
    return header


def read(message: Any) -> Any:
    """What comes out where this message goes in."""
    (came,) = wire.decode(wire.encode(JOB, message), JOB)
    return came


def altered(message: Any, field: str, value: Any) -> bytes:
    """The header of `message` with one field's packed value replaced."""
    values = msgpack.unpackb(wire.encode(JOB, message))
    values[2][1 + wire._layout(type(message)).names.index(field)] = value
    header: bytes = msgpack.packb(values)
    return header


def refusal(header: bytes) -> str:
    """What decode says to these bytes."""
    with pytest.raises(FrameError) as caught:
        wire.decode(header, JOB)
    return str(caught.value)


@contextmanager
def bytes_at_most(bound: int) -> Iterator[None]:
    """Fails when Python takes more memory than this inside."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= bound, f"took {peak} bytes, expected at most {bound}"


# ---- what goes in comes out -----------------------------------------------------------------------------------------


def test_a_message_comes_back_with_its_types() -> None:
    assert read(JOIN) == JOIN
    push = read(PUSH)
    assert isinstance(push, Push) and push.weight == 0.5
    assert push.slice_E.dtype == np.int64 and push.slice_E.tolist() == [1, 2]


def test_numpy_scalars_strided_and_big_endian_arrays_travel_like_plain_ones() -> None:
    seven: Any = np.int64(7)
    odd = Push(WorkerId(3), seven, Clock(5), np.float64(0.5), ids(1, 0, 2, 0)[::2], ids(8, 9).astype(">i8"), ids(4, 4))
    assert wire.encode(JOB, odd) == wire.encode(JOB, PUSH)


def test_messages_under_one_header_come_back_in_order() -> None:
    join, push, again = wire.decode(wire.encode(JOB, JOIN, PUSH, JOIN), JOB)
    assert join == again == JOIN and push.slice_E.tolist() == [1, 2]


def test_one_bad_message_refuses_all_under_its_header() -> None:
    values = msgpack.unpackb(wire.encode(JOB, JOIN, JOIN))
    values[3][2] = -1
    assert refusal(msgpack.packb(values)) == f"Join.incarnation: expected an integer in [0, {2**62}], got -1"


def test_empty_and_largest_values_travel() -> None:
    empty = Gap(0, ids(), ids())
    assert read(empty).slice_E.tolist() == []
    large = Join(WorkerId(2**31 - 1), 2**62)
    assert read(large) == large
    long = Stop("x" * (16 << 10), True)
    assert read(long) == long


# ---- one refusal per way to be wrong: each text names field, expected, got ------------------------------------------


@pytest.mark.parametrize(
    ("header", "text"),
    [
        pytest.param(b"", "header: expected one MessagePack tuple, got OutOfData", id="empty"),
        pytest.param(packed(1, 3, 7) + b"\x00", "header: expected one MessagePack tuple, got ExtraData", id="trailing"),
        pytest.param(packed(1, 3, 7)[:-1], "header: expected one MessagePack tuple, got OutOfData", id="truncated"),
        pytest.param(
            msgpack.packb({"a": 1}), "expected a tuple (version, job, message, ...), got dict of length 1", id="map"
        ),
        pytest.param(
            msgpack.packb([2, JOB]), "expected a tuple (version, job, message, ...), got list of length 2", id="two"
        ),
        pytest.param(
            msgpack.packb([1, JOB, [1, 3, 7]]),
            f"wire version: expected {wire.WIRE_VERSION}, got 1; run one release everywhere",
            id="version",
        ),
        pytest.param(
            wire.encode(OTHER_JOB, JOIN),
            "job id: expected this job's, got",
            id="job",
        ),
        pytest.param(packed(), "message: expected a tuple (code, field, ...), got list of length 0", id="no code"),
        pytest.param(
            msgpack.packb([wire.WIRE_VERSION, JOB, 7]), "message: expected a tuple (code, field, ...), got 7", id="flat"
        ),
        pytest.param(packed(999), "message code: expected one of [1, 2, 3,", id="code"),
        pytest.param(packed("1", 3, 7), "got '1'", id="code is text"),
        pytest.param(packed([1], 3, 7), "got list of length 1", id="code is a list"),
        pytest.param(packed(1, 3), "Join: expected 2 fields, got list of length 1", id="field missing"),
        pytest.param(packed(1, 3, 7, 0), "Join: expected 2 fields, got list of length 3", id="field too many"),
        pytest.param(packed(1, -2, 7), "Join.worker: expected an integer in [-1, 2147483647], got -2", id="rank low"),
        pytest.param(
            packed(1, 2**31, 7), "Join.worker: expected an integer in [-1, 2147483647], got 2147483648", id="rank"
        ),
        pytest.param(packed(1, 3, -1), f"Join.incarnation: expected an integer in [0, {2**62}], got -1", id="negative"),
        pytest.param(
            packed(1, 3, 2**63), f"Join.incarnation: expected an integer in [0, {2**62}], got 92233", id="2**63"
        ),
        pytest.param(packed(1, 3, True), "Join.incarnation: expected an integer in", id="boolean for integer"),
        pytest.param(packed(1, 3, 7.0), "Join.incarnation: expected an integer in", id="real for integer"),
        pytest.param(packed(1, 3, {"a": {"b": 1}}), "got dict of length 1", id="map for integer"),
    ],
)
def test_a_wrong_header_is_refused_by_name(header: bytes, text: str) -> None:
    assert text in refusal(header)


@pytest.mark.parametrize(
    ("message", "field", "value", "text"),
    [
        (PUSH, "weight", float("nan"), "Push.weight: expected a finite float, got nan"),
        (PUSH, "weight", float("-inf"), "Push.weight: expected a finite float, got -inf"),
        (PUSH, "weight", 1, "Push.weight: expected a finite float, got 1"),
        (PUSH, "slice_E", bytes(15), "Push.slice_E: expected packed <i8 >= 0, got bytes of length 15"),
        (PUSH, "slice_E", [1, 2], "Push.slice_E: expected packed <i8 >= 0, got list of length 2"),
        (PUSH, "seq_E", np.array([3, -1]).tobytes(), "Push.seq_E: expected packed <i8 >= 0, got bytes of length 16"),
        (
            PUSH,
            "base_E",
            bytes(8),
            "Push: expected arrays of equal length, got {'slice_E': 2, 'seq_E': 2, 'base_E': 1}",
        ),
        (Stop("", True), "failed", 1, "Stop.failed: expected a boolean, got 1"),
        (
            Stop("", True),
            "reason",
            b"bytes",
            "Stop.reason: expected text of at most 16384 bytes, got bytes of length 5",
        ),
        (Stop("", True), "reason", "x" * 16385, "Stop.reason: expected text of at most 16384 bytes, got 'xxx"),
        (Stop("", True), "reason", "\u20ac" * 5462, "Stop.reason: expected text of at most 16384 bytes, got '\u20ac"),
        (Register(WorkerId(0), 1, 0, (SPEC,)), "specs", [[1]], "Spec: expected 9 fields, got list of length 1"),
        (
            Register(WorkerId(0), 1, 0, (SPEC,)),
            "specs",
            5,
            "Register.specs: expected a list of at most 1048576 Spec, got 5",
        ),
        (
            Register(WorkerId(0), 1, 0, (SPEC,)),
            "specs",
            [["w", [2, -3], "float32", 1.0, None, None, None, False, 4096]],
            f"Spec.shape: expected a list of at most 64: an integer in [0, {2**62}], got list of length 2",
        ),
        (
            Register(WorkerId(0), 1, 0, (SPEC,)),
            "specs",
            [["w", [1] * 65, "float32", 1.0, None, None, None, False, 4096]],
            "Spec.shape: expected a list of at most 64",
        ),
        (
            Register(WorkerId(0), 1, 0, (SPEC,)),
            "specs",
            [["w", [2], "float32", 1.0, "much", None, None, False, 4096]],
            "Spec.weight_decay: expected none or a finite float, got 'much'",
        ),
        (
            Log(WorkerId(0), 1, Clock(0), 0.5, ("a",), (1.0,)),
            "names",
            ["a"] * 257,
            "Log.names: expected a list of at most 256",
        ),
        (Rate(1, 0.1, Clock(0)), "lr", None, "Rate.lr: expected a finite float, got None"),
    ],
)
def test_a_wrong_field_is_refused_by_name(message: Any, field: str, value: Any, text: str) -> None:
    assert text in refusal(altered(message, field, value))


def test_a_refusal_stays_short_whatever_came() -> None:
    deep: Any = None
    for _ in range(1000):
        deep = {"a": deep}
    for value in ("\x00" * 1_000_000, deep, 2**64 - 1, ["x"] * 10_000, msgpack.ExtType(5, bytes(100_000))):
        with bytes_at_most(8 << 20):
            assert len(refusal(altered(JOIN, "incarnation", value))) < 200


def test_a_longer_header_than_allowed_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEADER_BYTES_MAX", 10)
    assert refusal(wire.encode(JOB, JOIN)) == "header: expected at most 10 bytes, got 24"


# ---- any bytes at all -----------------------------------------------------------------------------------------------

VALID = [
    wire.encode(JOB, message)
    for message in (
        JOIN,
        PUSH,
        Pull(WorkerId(0), 1, 2, 2, Clock(3), False, ids(1, 2, 3), ids(0, 0, 4)),
        Verdicts(1, ids(5), ids(6), np.array([2], np.uint8), ids(7)),
        Values(4, ids(1), ids(2), ids(3), 0.1, 0.5),
        Register(WorkerId(0), 1, 0, (SPEC, SPEC)),
        Stop("reason", True),
    )
]


def decodes_or_refuses(header: bytes) -> None:
    """Nothing but a message or a FrameError comes out, in memory that grows with what came in."""
    with bytes_at_most(64 * len(header) + (64 << 10)), suppress(FrameError):
        wire.decode(header, JOB)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(header: bytes) -> None:
    decodes_or_refuses(header)
    decodes_or_refuses(VALID[0][:-2] + header)  # behind a valid version, job and code


@given(st.sampled_from(VALID), st.data())
def test_a_damaged_header_is_refused_or_read(header: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(header) - 1))
    cut = data.draw(st.integers(0, 4))
    decodes_or_refuses(header[:at] + data.draw(st.binary(max_size=4)) + header[at + cut :])


ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=17),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(wire.CODES)), st.lists(ANYTHING, max_size=9))
def test_any_tuple_behind_a_known_code_is_refused_or_read(code: int, fields: list[Any]) -> None:
    decodes_or_refuses(packed(code, *fields))


@pytest.mark.parametrize("claim", [b"\xdd", b"\xdf", b"\xdb", b"\xc6"], ids=["array", "map", "text", "bytes"])
def test_a_count_that_is_not_there_takes_no_memory(claim: bytes) -> None:
    """Five bytes may claim four billion entries."""
    decodes_or_refuses(claim + b"\xff\xff\xff\xff")
    decodes_or_refuses(claim + b"\x00\x00\x01\x00" + bytes(255))


def test_a_long_header_of_a_stranger_takes_no_memory() -> None:
    """Empty lists cost a byte to send and sixty to make."""
    many = b"\xdd" + (1 << 20).to_bytes(4, "big") + bytes([0x90]) * (1 << 20)
    nested = b"\x92" + many
    with bytes_at_most(64 << 10):
        assert refusal(many) == "job id: expected this job's first of all, got 1048581 bytes without it"
        assert refusal(nested).startswith("job id: expected this job's first of all")
        assert wire.claimed_job(many) == bytes(16)


def test_the_job_of_any_header_is_found() -> None:
    for messages in (0, 1, 14, 20, 70_000):
        header = msgpack.packb([wire.WIRE_VERSION, OTHER_JOB[:15] + b"x", *[[]] * messages])
        assert wire.claimed_job(header) == OTHER_JOB[:15] + b"x"
        assert wire.claimed_job(header[:15]) == bytes(16)


def test_nested_counts_that_are_not_there_take_no_memory() -> None:
    entries = 20_000
    bomb = (b"\xdd" + entries.to_bytes(4, "big")) * 1000
    decodes_or_refuses(bomb + b"\xc0" * (entries - len(bomb)))


# ---- declaring messages ---------------------------------------------------------------------------------------------


def test_a_second_thread_can_read_a_class_at_any_line_of_its_first_reading() -> None:
    """Threads of one process share what is known of a class: none may see half of it."""
    header, tracer = wire.encode(JOB, PUSH), sys.gettrace()
    place, reached = 0, True
    while reached:
        reached = False
        lines = count()

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal reached
            if frame.f_code.co_filename == wire.__file__ and event == "line" and next(lines) == place:  # noqa: B023
                reached = True
                assert type(wire.decode(header, JOB)[0]) is Push
            return trace

        wire._LAYOUTS.clear()
        sys.settrace(trace)
        try:
            wire.decode(header, JOB)
        finally:
            sys.settrace(tracer)
        place += 1
    assert place > 100


def test_two_messages_cannot_have_one_code() -> None:
    with pytest.raises(AssertionError):

        @wire.message(1)
        @dataclass(frozen=True)
        class Twin:
            worker: Annotated[int, wire.RANK]


def test_a_field_without_a_kind_is_found_at_once() -> None:
    @dataclass(frozen=True)
    class Careless:
        worker: Annotated[int, "a rank"]

    with pytest.raises((AssertionError, NameError)):
        wire._layout(Careless)
