"""Learning-rate schedules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.errors import ConfigError
from ps.optim import SCHEDULES, schedule

SPELLED = {"constant": "constant", "step": "step:every=5", "cosine": "cosine:clocks=20", "inverse_sqrt": "inverse_sqrt"}


def test_every_row_is_spelled_here() -> None:
    assert SPELLED.keys() == SCHEDULES.keys()


def test_the_shapes() -> None:
    assert [schedule("constant").factor(c) for c in (0, 9)] == [1.0, 1.0]
    assert [schedule("step:every=2,decay=0.5").factor(c) for c in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert schedule("step:every=3").factor(6) == pytest.approx(0.01)
    assert schedule("inverse_sqrt").factor(3) == 0.5
    cosine = schedule("cosine:clocks=10,floor=0.2")
    assert cosine.factor(0) == 1.0
    assert cosine.factor(5) == pytest.approx(0.6)
    assert cosine.factor(3) == pytest.approx(0.2 + 0.8 * (1 + math.cos(0.3 * math.pi)) / 2)
    assert cosine.factor(10) == cosine.factor(999) == 0.2


@pytest.mark.parametrize("name", SPELLED)
def test_warmup_is_linear_and_moves_the_schedule_behind_it(name: str) -> None:
    spec = SPELLED[name]
    warm = schedule(f"{spec}{',' if ':' in spec else ':'}warmup=4")
    assert [warm.factor(c) for c in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [warm.factor(4 + c) for c in range(30)] == [schedule(spec).factor(c) for c in range(30)]


@given(st.sampled_from(sorted(SPELLED)), st.integers(0, 10_000))
def test_factors_start_at_one_never_rise_and_are_never_negative(name: str, clock: int) -> None:
    shape = schedule(SPELLED[name])
    assert shape.factor(0) == 1.0
    assert 0 <= shape.factor(clock + 1) <= shape.factor(clock)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("linear", "schedule: expected one of constant, cosine, inverse_sqrt, step"),
        ("step", "every: expected a value"),
        ("step:every=0", "every: .*greater than or equal to 1"),
        ("cosine:clocks=5,floor=2", "floor"),
        ("constant:warm=3", "constant expected one of warmup"),
        ("ps.optim.sgd:Sgd:lr=1", "subclass of ps.optim.schedules.Schedule"),
    ],
)
def test_a_misspelled_schedule_says_what_was_expected(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        schedule(spec)
