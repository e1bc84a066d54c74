"""Sets of whole numbers as spans [start, stop): in order, none empty, none touching the next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
Spans: TypeAlias = list[Span]


def united(spans: Iterable[Span]) -> Spans:
    """All numbers of these spans, which may overlap, be empty and stand in any order."""
    made: Spans = []
    for start, stop in sorted(spans):
        if start >= stop:
            continue
        if made and start <= made[-1][1]:
            made[-1] = made[-1][0], max(made[-1][1], stop)
        else:
            made.append((start, stop))
    return made


def without(spans: Spans, taken: Spans) -> Spans:
    """The numbers of `spans` that are not in `taken`; both are as `united` makes them."""
    left: Spans = []
    place = 0
    for start, stop in spans:
        while place < len(taken) and taken[place][1] <= start:
            place += 1
        look = place
        while look < len(taken) and taken[look][0] < stop:
            if start < taken[look][0]:
                left.append((start, taken[look][0]))
            start = taken[look][1]
            look += 1
        if start < stop:
            left.append((start, stop))
    return left
