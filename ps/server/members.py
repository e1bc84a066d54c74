"""What a shard knows of each worker beside the ledger: open ticks, parked pulls, signs of life; lost with the shard."""

from __future__ import annotations

from dataclasses import dataclass, field

from ps.messages import Pull
from ps.types import Bool, Int64


@dataclass(slots=True)
class OpenTick:
    """A tick that waits for verdicts on some slices."""

    clock: int
    seq_S: Int64
    base_S: Int64
    closed_S: Bool  # slices on which it is closed already
    left: int  # slices on which it is not
    late: bool = False


@dataclass(slots=True)
class Parked:
    """What of a pull the gate holds; index_E: its slices by local index, seq_E: the own pushes that must be in, mark_E:
    of the views that the worker holds."""

    pull: Pull
    index_E: Int64
    seq_E: Int64
    mark_E: Int64
    since: float


@dataclass(slots=True)
class Member:
    """One worker."""

    heard: float = -1.0  # when; -1: never
    clock: int = 0  # ticks known: the worker is at this clock
    ticks: list[OpenTick] = field(default_factory=list)
    late_clock: int = -1  # last clock that came too late on some slice
    pulls: dict[int, Parked] = field(default_factory=dict)  # by id
    oldest: int = 0  # least pull id it still waits for
    joined: bool = False  # this incarnation came as a new member
    fenced: bool = False
