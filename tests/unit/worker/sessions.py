"""A session without shards: its calls and what it hears, as lines.

In the lines `2#5` is push number 5 on slice 2; ids of pulls count from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ps.consistency import consistency
from ps.messages import Ask, Code, Gap, Init, Join, Leave, Pull, Push, Tick, Ticked, Values, Verdicts, Welcome
from ps.types import Clock, Int64
from ps.worker.actions import Action, Deliver, Send, Settled
from ps.worker.core import Session

INCARNATION = 3
FIRST_ID = INCARNATION << 32  # push and pull ids count from here


def ids(*numbers: int) -> Int64:
    return np.array(numbers, np.int64)


def session(model: str = "bsp", slices: int = 2, shards: int = 1, joined: bool = True, **options: Any) -> Session:
    """A session whose slices lie on the shards in turn, joined and with values in hand at version 0."""
    made = Session(0, INCARNATION, consistency(model), shards, **options)
    made.join(0.0)
    if joined:
        for shard in range(shards):
            made.handle(shard, welcome(), 0.0)
        made.place(np.arange(slices) % shards, np.full(slices, 64))
    return made


def show(action: Action) -> str:
    """One action in one line."""
    match action:
        case Send(to, body):
            return f"{to} <- {show_body(body)}"
        case Deliver(pull):
            return f"deliver {pull - FIRST_ID}"
        case Settled(push, slice_id, code, version):
            return f"settled push {push - FIRST_ID} on {slice_id}: {code.name.lower()} v{version}"


def show_body(body: Any) -> str:
    """One message in one line."""
    match body:
        case Push() | Tick():
            bases = "".join(f" v{base}" for base in sorted(set(body.base_E.tolist())))
            return f"{type(body).__name__.lower()} {body.clock}: {numbered(body)} on{bases}"
        case Pull():
            late = " late" if body.late else ""
            return f"pull {body.id - FIRST_ID} at {body.clock}{late}: {numbered(body)}"
        case Ask():
            return f"ask {numbered(body)}"
        case Init(_, _, slice_E):
            return f"init {','.join(map(str, slice_E))}"
        case Join() | Leave():
            return type(body).__name__.lower()
    raise AssertionError(body)


def numbered(body: Any) -> str:
    return ", ".join(f"{i}#{n}" for i, n in zip(body.slice_E, body.seq_E, strict=True))


def lines(actions: Iterable[Action]) -> list[str]:
    return [show(action) for action in actions]


# ---- what the training loop does ------------------------------------------------------------------------------------


def push(worker: Session, *slices: int, weight: float = 1.0, now: float = 0.0) -> list[str]:
    return lines(worker.push(ids(*slices) if slices else np.arange(len(worker.shard_S)), weight, now)[1])


def pull(worker: Session, *slices: int, now: float = 0.0) -> list[str]:
    return lines(worker.pull(ids(*slices) if slices else np.arange(len(worker.shard_S)), now)[1])


def tick(worker: Session, now: float = 0.0) -> list[str]:
    return lines(worker.tick(now))


def is_joined(worker: Session) -> bool:
    return worker.is_joined


def is_initialised(worker: Session) -> bool:
    return worker.is_initialised


def is_settled(worker: Session) -> bool:
    return worker.is_settled


def repeats(worker: Session) -> bool:
    return worker.repeats


def has_left(worker: Session) -> bool:
    return worker.has_left


# ---- what the shards say --------------------------------------------------------------------------------------------


def welcome(
    *entries: tuple[int, int, int], clock: int = 0, as_joiner: bool = False, incarnation: int = INCARNATION
) -> Welcome:
    """entries: (slice, last number, finished clock)."""
    slices, numbers, clocks = zip(*entries, strict=True) if entries else ((), (), ())
    return Welcome(incarnation, as_joiner, Clock(clock), ids(*slices), ids(*numbers), ids(*clocks), ids(), ids())


def verdicts(code: Code, *entries: tuple[int, int], version: int = 0, incarnation: int = INCARNATION) -> Verdicts:
    """entries: (slice, number)."""
    slices, numbers = zip(*entries, strict=True)
    codes = np.full(len(entries), code, np.uint8)
    return Verdicts(incarnation, ids(*slices), ids(*numbers), codes, np.full(len(entries), version))


def values(
    pull: int, slices: Sequence[int], version: int = 0, min_clock: int = 0, lr: float = 0.1, rate: float = 1.0
) -> Values:
    count = len(slices)
    return Values(FIRST_ID + pull, ids(*slices), np.full(count, version), np.full(count, min_clock), lr, rate)


def gap(*entries: tuple[int, int]) -> Gap:
    slices, numbers = zip(*entries, strict=True)
    return Gap(INCARNATION, ids(*slices), ids(*numbers))


def ticked(clock: int, late: bool = False) -> Ticked:
    return Ticked(INCARNATION, Clock(clock), late)
