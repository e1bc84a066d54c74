"""Sets of numbers as spans."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ps.spans import Span, Spans, united, without

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def numbers(spans: list[Span]) -> set[int]:
    return {number for start, stop in spans for number in range(start, stop)}


def is_minimal(spans: Spans) -> bool:
    edges = [edge for span in spans for edge in span]
    return edges == sorted(set(edges))


@given(SPANS)
def test_united_has_the_same_numbers_in_as_few_spans_as_can_be(spans: list[Span]) -> None:
    assert numbers(united(spans)) == numbers(spans) and is_minimal(united(spans))


@given(SPANS, SPANS)
def test_without_is_the_difference(mine: list[Span], taken: list[Span]) -> None:
    left = without(united(mine), united(taken))
    assert numbers(left) == numbers(mine) - numbers(taken) and is_minimal(left)
