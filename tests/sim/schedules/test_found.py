"""Shortened schedules that once broke a promise, with what was wrong; found by test_schedules.py."""

from __future__ import annotations

import pytest

from ps.testing.schedules import (
    Crash,
    Cut,
    Late,
    Lossy,
    Reordering,
    Repeating,
    Schedule,
    SlowApply,
    SlowWorker,
    check_schedule,
)
from ps.types import PeerId

LOCAL2 = "local:every=2,local_lr=0.5"
DOWNPOUR = "downpour:push_every=2,pull_every=3,local_lr=0.5"
QUORUM2 = "quorum:n=2"

FOUND: dict[str, tuple[str, Schedule]] = {
    "the last round of a worker that leaves alone was never committed": (
        QUORUM2,
        Schedule(53, 3, 2, 3, (Lossy(0.1), SlowWorker(1, 0.0171), Cut(PeerId("server:0"), 0.0151, 0.1538)), "wait"),
    ),
    "a worker that waits for others lost its lease": (
        "bsp",
        Schedule(45, 3, 3, 1, (Lossy(0.3),), "drop", "sgd:lr=0.5", lease_s=2.0),
    ),
    "the first tick of a joiner was taken for a copy": (
        "ssp:staleness=0",
        Schedule(71, 3, 1, 2, (SlowApply(0.03), Late(4, 0.0259)), "wait"),
    ),
    "a pull off cadence waited for a tick that does not travel": (LOCAL2, Schedule(5, clocks=2, grow_at=1)),
    "a tick overtaken by the next one was confirmed before it was closed": (
        DOWNPOUR,
        Schedule(
            213, 3, 2, 3, (Lossy(0.02), Reordering(0.3), SlowWorker(2, 0.0056), Crash(1, 0.1034, 0.2443)), "drop",
            "sgd:lr=0.5", lease_s=2.0,
        ),
    ),
    "a worker that came back did again what it had finished": (
        LOCAL2,
        Schedule(89, 2, 2, 2, (Lossy(0.1), Reordering(0.3), Crash(1, 0.1114, 0.002)), "drop", "sgd:lr=0.5", grow_at=1),
    ),
    "new slices took the rounds in flight of the old ones for closed": (
        QUORUM2,
        Schedule(50, 4, 2, 4, (SlowApply(0.03), SlowWorker(0, 0.02)), "wait", grow_at=2),
    ),
    "by version, a clock that was not closed counted as finished after a restart": (
        QUORUM2,
        Schedule(416, 2, 3, 2, (Lossy(0.3), Repeating(0.3), Reordering(0.1), Crash(1, 0.381, 0.2973)), "wait"),
    ),
    "by version, a late worker waited for its pushes elsewhere before it sent the one that others waited for": (
        QUORUM2,
        Schedule(
            20295, 2, 3, 6, (Lossy(0.1), Repeating(0.1), SlowWorker(1, 0.0215), Late(2, 0.2302)), "wait",
        ),
    ),
    "a Join that came after the news of the worker's loss made it live for ever": (
        "bsp",
        Schedule(
            1298, 3, 3, 2,
            (
                Lossy(0.02), Repeating(0.1), Reordering(0.3), SlowApply(0.001), SlowWorker(0, 0.0134),
                SlowWorker(2, 0.0098), Late(3, 0.1407), Crash(1, 0.0136, 0.0, False), Crash(3, 0.1575, None),
                Cut(PeerId("server:0"), 0.1246, 0.0509),
            ),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_stays_mended(what: str) -> None:
    model, schedule = FOUND[what]
    check_schedule(schedule, model)
