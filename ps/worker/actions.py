"""What a session tells its runtime to do, in order; and what of it is not finished yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from ps.messages import Code, Waiting
from ps.types import Clock, Int64, PeerId, frozen


@frozen
class Send:
    """A message; `push`: with the frames of this push for its slices; `init`: with initial values."""

    to: PeerId
    body: Any
    push: int = -1
    init: bool = False


@frozen
class Deliver:
    """The message in hand holds wanted values."""

    pull: int


@frozen
class Settled:
    """The final verdict of a push on a slice: its frame may go; LATE: refund it first."""

    push: int
    slice: int
    code: Code
    version: int


Action: TypeAlias = Send | Deliver | Settled


class Thin(NamedTuple):
    """What travels of a slice that is pushed as factors."""

    nbytes: int
    group: int  # slices of one group share a buffer: of one shard they travel in one message


@dataclass(slots=True)
class PushEntry:
    """A push that is not settled everywhere."""

    id: int
    clock: Clock
    weight: float
    open: dict[int, tuple[int, int]]  # slice -> (number, base version): no final verdict yet
    of_shard: dict[int, list[int]]  # shard -> all slices of the push that live there
    gathered: set[int] = field(default_factory=set)  # of the open ones: arrived, not yet committed
    thin: Mapping[int, Thin] = field(default_factory=dict)  # slices whose frames are factors


@dataclass(slots=True)
class PullEntry:
    """A pull that waits for some shards."""

    id: int
    clock: Clock
    missing: dict[int, tuple[Int64, Int64]]  # shard -> (slice ids, own push numbers that must be in)
    note: Waiting | None = None  # what a shard last said about the wait
