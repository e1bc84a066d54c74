"""One spelling of plug-ins with options: what it means, and what it says to a wrong one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from ps.errors import ConfigError
from ps.plugins import build, own_class, parse_spec, split_chain


@dataclass(frozen=True)
class Decay:
    """A plug-in as an author writes it."""

    lr: Annotated[float, Field(gt=0)]
    every: Annotated[int, Field(ge=1)] = 10
    kind: str = "plain"


@dataclass(frozen=True)
class Plain:
    """A plug-in without options."""


class NoDataclass:
    pass


TABLE: dict[str, type] = {"decay": Decay, "plain": Plain}
HERE = __name__


def built(spec: str) -> object:
    return build("speed", TABLE, spec)


# ---- spelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("bsp", "bsp", {}),
        ("topk:ratio=0.01", "topk", {"ratio": "0.01"}),
        (" decay : lr = 1e-3 , every = 5 ", "decay ", {"lr": "1e-3", "every": "5"}),
        ("pkg.mod:Class", "pkg.mod:Class", {}),
        ("pkg.mod:Class:key=value,other=2", "pkg.mod:Class", {"key": "value", "other": "2"}),
        ("a:x=y=z", "a", {"x": "y=z"}),
    ],
)
def test_a_spelling_has_a_name_and_options(spec: str, name: str, options: dict[str, str]) -> None:
    assert parse_spec(spec) == (name, options)


words = st.from_regex(r"[a-z][a-z0-9_.]*", fullmatch=True)
values = st.from_regex(r"[A-Za-z0-9+.=-]+", fullmatch=True)


@given(words | st.builds("{}:{}".format, words, words), st.dictionaries(words, values, max_size=4))
def test_spelling_and_parsing_are_inverse(name: str, options: dict[str, str]) -> None:
    spelled = ",".join(f"{key}={value}" for key, value in options.items())
    assert parse_spec(f"{name}:{spelled}" if spelled else name) == (name, options)


def test_a_chain_is_cut_at_plus_signs_that_join_names() -> None:
    assert split_chain("staleness:kind=sqrt+momentum:lr=1e+3,decay=+0.9") == [
        "staleness:kind=sqrt",
        "momentum:lr=1e+3,decay=+0.9",
    ]
    assert split_chain("sgd:lr=0.1") == ["sgd:lr=0.1"]


def test_options_become_what_the_annotations_say() -> None:
    assert built("decay:lr=1e-3,every=5") == Decay(lr=0.001, every=5)
    assert built("plain") == Plain()
    assert build("speed", TABLE, "decay:lr=1", {"kind": "mine"}) == Decay(lr=1.0, kind="mine")


def test_ones_own_class_needs_no_table() -> None:
    plugin = built(f"{HERE}:Decay:lr=2")
    assert type(plugin).__name__ == "Decay" and plugin == own_class(f"{HERE}:Decay")(lr=2.0)  # type: ignore[misc]
    assert own_class("decay") is None


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("decya:lr=1", "speed: expected one of decay, plain or package.module:Class, got 'decya'"),
        ("", "speed: expected one of decay, plain or package.module:Class, got ''"),
        ("decay:rl=1", "speed: decay expected one of lr, every, kind, got 'rl'"),
        ("plain:lr=1", "speed: plain expected no options, got 'lr'"),
        ("decay:lr=0", "speed: decay: lr: expected greater than 0, got '0'"),
        ("decay:lr=1,every=0", "speed: decay: every: expected greater than or equal to 1, got '0'"),
        ("decay:lr=fast", "speed: decay: lr: expected a valid number, unable to parse string as a number, got 'fast'"),
        ("decay:lr=1,every=1.5", "speed: decay: every: expected a valid integer, unable to parse string as an integer"),
        ("decay", "speed: decay: lr: expected a value, got none"),
        ("decay:lr=0,every=x", "speed: decay: lr: expected greater than 0, got '0'; every: expected a valid integer"),
        ("decay:lr=1,lr=2", "'decay:lr=1,lr=2': option 'lr' stands twice; keep one"),
        ("decay:lr=1,every", "'decay:lr=1,every': expected options as key=value, got 'every'"),
        ("decay:lr=1,", "'decay:lr=1,': expected options as key=value, got ''"),
        ("decay:lr=", "'decay:lr=': expected options as key=value, got 'lr='"),
        ("decay:=1", "'decay:=1': expected options as key=value, got '=1'"),
        (
            "decay:lr=1:every=2",
            "'decay:lr=1:every=2': expected name:key=value,key=value, got a second ':' in the options",
        ),
    ],
)
def test_a_wrong_spelling_is_refused_in_words(spec: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        built(spec)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            "no_such_module:Class",
            "'no_such_module:Class': expected an importable package.module:Class, got No module named",
        ),
        (f"{HERE}:NoSuchClass", "expected an importable package.module:Class, got module"),
        (f"{HERE}:NoDataclass", "expected a dataclass, got <class"),
        (f"{HERE}:HERE", "expected a dataclass, got 'tests.unit.test_plugins'; plug-ins are frozen dataclasses"),
        (":Class", "':Class': expected an importable package.module:Class, got Empty module name"),
        (".relative:Class", "'.relative:Class': expected an importable package.module:Class, got"),
        ("decay:", "'decay:': expected an importable package.module:Class"),
    ],
)
def test_ones_own_class_that_is_none_is_refused_in_words(spec: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        built(spec)


def test_a_known_name_with_a_bare_value_is_told_about_options() -> None:
    with pytest.raises(ConfigError, match=r"expected options as key=value, got '3'"):
        built("decay:3")
