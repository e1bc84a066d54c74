"""A shard under honest workers in any order, and under any message at all."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps import wire
from ps.errors import PeerError
from ps.messages import Read, Spec
from ps.server.ledger import Commit, Ledger, Refused
from tests.scenarios.drive import Drive

# ---- any schedule ---------------------------------------------------------------------------------------------------

ALL_MODELS = [
    "bsp",
    "ssp:staleness=1",
    "async",
    "quorum:n=2",
    "local:every=2,local_lr=0.1",
    "async_local:every=2,local_lr=0.1",
    "easgd:alpha=0.3,every=2,local_lr=0.1",
    "downpour:push_every=2,warm_start=2",
]


def wander(shard: Drive, seed: int, events: int) -> list[str]:
    """Honest workers in any order, with copies, restarts, losses, joiners, new slices and slow applies."""
    random, lines = Random(seed), []
    for number in range(events):
        shard.now = float(number)
        worker = random.choice(sorted(shard.books))
        books = shard.books[worker]
        match random.choices(
            ["push", "tick", "pull", "applied", "again", "restart", "lost", "join", "leave", "place"],
            [9, 9, 6, 9, 3, 0.4, 0.2, 0.2, 0.1, 0.3],
        )[0]:
            case "push":
                lines += shard.push(worker)
            case "tick":
                lines += shard.tick(worker)
            case "pull":
                lines += shard.pull(worker)
            case "applied" if shard.applies:
                lines += shard.applied()
            case "again":
                numbers = [max(number - random.randrange(3), 0) for number in books.number.values()]
                lines += shard.push(worker, slices=list(books.number), number=numbers)
            case "restart":
                lines += shard.join(worker, books.incarnation + 1)
            case "lost":
                lines += shard.lost(worker)
            case "join" if len(shard.books) < 6:
                lines += shard.join(len(shard.books))
            case "leave":
                lines += shard.leave(worker)
            case "place" if shard.slices < 4:
                lines += shard.place() + shard.init(0)
    return lines + shard.settle()


@pytest.mark.parametrize("model", ALL_MODELS)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_after_any_schedule_the_log_tells_all_and_every_push_counts_once(model: str, seed: int) -> None:
    shard = Drive(model, workers=3, slices=2)
    lines = wander(shard, seed, events=80)
    replayed = Ledger(3)
    versions: dict[int, int] = {}
    settled: set[tuple[int, int, int]] = set()
    for record in shard.records:
        if isinstance(record, Commit):
            assert record.version == versions.get(record.slice, record.version - 1) + 1, "versions run without gaps"
            versions[record.slice] = record.version
            ends = [(push.worker, record.slice, push.seq) for push in record.contributions]
            ends += [(worker, record.slice, seq) for worker, seq in record.late]
        elif isinstance(record, Refused):
            ends = [(record.worker, record.slice, record.seq)]
        else:
            ends = []
        assert not settled & set(ends) and len(set(ends)) == len(ends), "one verdict for each push"
        settled |= set(ends)
        replayed.apply(record)
    assert replayed.state() == shard.shard.ledger.state()
    again = Drive(model, workers=3, slices=2)
    assert wander(again, seed, events=80) == lines, "same events, same actions"


# ---- any message at all ---------------------------------------------------------------------------------------------


def any_value(kind: wire.Kind, length: int, random: Random) -> Any:
    """Values that come near what the shard knows, and some that are far off."""
    numbers = [0, 0, 1, 1, 2, 3, 2**62]
    if "i8" in kind.expected:
        return np.array([random.choice(numbers) for _ in range(length)], np.int64)
    if "u1" in kind.expected:
        return np.array([random.choice([0, 1, 2, 3, 255]) for _ in range(length)], np.uint8)
    if "Spec" in kind.expected:
        return tuple(
            Spec(random.choice("ab"), (64, 64), "float32", 1.0, None, None, None, False, 1 << 20) for _ in range(length)
        )
    if kind.expected.startswith("a list"):
        return ()
    if "integer" in kind.expected:
        return random.choice([-1, 0, 1, 2, 3] if kind is wire.RANK else numbers)
    return {"a boolean": random.random() < 0.5, "a finite float": random.choice([-1.0, 0.0, 1e300])}.get(
        kind.expected, ""
    )


@settings(max_examples=40)
@given(model=st.sampled_from(ALL_MODELS), keep=st.booleans(), seed=st.integers(0, 10**6))
def test_no_message_however_odd_stops_a_shard(model: str, keep: bool, seed: int) -> None:
    random = Random(seed)
    shard = Drive(model, keep=keep)
    classes = [cls for cls in wire.CODES.values() if cls is not Read]  # the runtime answers readers itself
    for _ in range(60):
        cls = random.choice(classes[:7] if random.random() < 0.8 else classes)
        length = random.randrange(3)
        message = cls(*(any_value(kind, length, random) for kind in wire._layout(cls).kinds))
        with suppress(PeerError):
            shard.shard.handle(message, 0.0)
