"""Every message there is: it has its own code, and comes back from the wire as it was."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps import messages, wire
from ps.errors import ConfigError
from ps.keyspace import Options, Parameter
from ps.messages import Spec
from ps.types import WorkerId

JOB = bytes(16)
MESSAGES = sorted(wire.CODES.values(), key=lambda cls: cls.__name__)


def values_of(expected: str, length: int) -> st.SearchStrategy[Any]:
    """Values of a kind, from its own words; packed arrays have this length."""
    number = {name: int(text) for name, text in re.findall(r"(at most|in \[) ?(-?\d+)", expected)}
    if expected.startswith("none or "):
        return st.none() | values_of(expected.removeprefix("none or "), length)
    if match := re.fullmatch(r"a list of at most \d+: (.*)", expected):
        return st.lists(values_of(match[1], length), max_size=3).map(tuple)
    if match := re.fullmatch(r"a list of at most \d+ (\w+)", expected):
        return st.lists(instances(getattr(messages, match[1])), max_size=3).map(tuple)
    if match := re.fullmatch(r"an integer in \[(-?\d+), (\d+)\]", expected):
        return st.integers(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"packed ([<|]\w\d) >= (\d)(?: and <= (\d))?", expected):
        dtype = np.dtype(match[1])
        numbers = st.integers(int(match[2]), int(match[3] or np.iinfo(dtype).max))
        return st.lists(numbers, min_size=length, max_size=length).map(lambda list: np.array(list, dtype))
    if expected.startswith("text of at most "):
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=number["at most"] // 4)
    return {"a finite float": st.floats(allow_nan=False, allow_infinity=False), "a boolean": st.booleans()}[expected]


@st.composite
def instances(draw: st.DrawFn, cls: type[Any]) -> Any:
    """Any instance of a message class."""
    length = draw(st.integers(0, 4))  # all arrays of one message run over the same slices
    return cls(*(draw(values_of(kind.expected, length)) for kind in wire._layout(cls).kinds))


def same(mine: Any, theirs: Any) -> bool:
    """Equal in type and value, arrays to the element."""
    if isinstance(mine, np.ndarray):
        return mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
    if dataclasses.is_dataclass(mine):
        fields = dataclasses.fields(mine)
        return type(mine) is type(theirs) and all(same(getattr(mine, f.name), getattr(theirs, f.name)) for f in fields)
    if isinstance(mine, tuple):
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    return type(mine) is type(theirs) and bool(mine == theirs)


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_every_message_comes_back_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(instances(cls))
    (came,) = wire.decode(wire.encode(JOB, message), JOB)
    assert same(message, came)


def test_every_class_of_the_page_has_a_code_of_its_own() -> None:
    """Spec travels inside other messages, Code is a number."""
    classes = {cls for _, cls in inspect.getmembers(messages, inspect.isclass)}
    on_page = {cls for cls in classes if cls.__module__.startswith("ps.messages.")} - {messages.Spec, messages.Code}
    assert on_page == set(MESSAGES)
    assert len(wire.CODES) == len(wire.CODE_OF) == len(on_page)
    assert all(wire.CODES[code] is cls for cls, code in wire.CODE_OF.items())


def test_messages_hold_nothing_but_their_fields() -> None:
    """That nobody sets them is for the type checker to see: `ps.types.frozen`."""
    for cls in MESSAGES:
        assert cls.__slots__ == tuple(field.name for field in dataclasses.fields(cls)), cls


def test_codes_stay_what_they_are() -> None:
    """A change here is a new wire version."""
    assert " ".join(f"{code}:{cls.__name__}" for code, cls in sorted(wire.CODES.items())) == (
        "1:Join 2:Init 3:Push 4:Tick 5:Pull 6:Read 7:Leave 8:Ask "
        "20:Welcome 21:InitDone 22:Verdicts 23:Gap 24:Ticked 25:Values 26:Waiting 27:LeaveDone 28:Rejected "
        "40:Enroll 41:Enrolled 42:Register 43:Registered 44:Place 45:Placed 46:Progress 47:Committed "
        "48:CommittedByAll 49:Barrier 50:BarrierOpen 51:Stop 52:Lost 53:Done 54:EpochDone 55:EpochEnd 56:Skipped "
        "57:SetLr 58:Log 59:BatchReady 60:LrSet 61:Rate 62:Rest 63:Confirmed 64:Probe "
        "65:Lease 66:Leased 67:Withheld"
    )


def test_a_spec_is_the_parameter_it_was_made_of() -> None:
    parameter = Parameter("w1", (3, 4), "bfloat16", Options(0.5, 0.01, "topk:ratio=0.1", "int8", True))
    assert Spec.of(parameter).parameter() == parameter


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            Spec("w", (2,), "complex64", 1.0, None, None, None, False, 1 << 20),
            "parameter 'w': expected dtype float16, bfloat16",
        ),
        (
            Spec("", (2,), "float32", 1.0, None, None, None, False, 1 << 20),
            "parameter name: expected 1 to 512 bytes, got ''",
        ),
        (
            Spec("w", (2**21, 2**20), "float32", 1.0, None, None, None, False, 1 << 20),
            "expected at most 1099511627776 elements",
        ),
        (
            Spec("w", (2,), "float32", -1.0, None, None, None, False, 1 << 20),
            "options.lr_scale: expected a finite number >= 0, got -1",
        ),
        (
            Spec("w", (2,), "float32", 1.0, -0.5, None, None, False, 1 << 20),
            "options.weight_decay: expected a finite number >= 0",
        ),
    ],
)
def test_a_spec_that_is_no_parameter_is_refused_by_name(spec: Spec, text: str) -> None:
    (sent,) = wire.decode(wire.encode(JOB, messages.Register(WorkerId(0), 1, 0, (spec,))), JOB)
    with pytest.raises(ConfigError, match=re.escape(text)):
        sent.specs[0].parameter()
