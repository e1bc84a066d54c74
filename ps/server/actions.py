"""What a shard tells its runtime to do, in order."""

from __future__ import annotations

from typing import Any, TypeAlias

from ps.server.ledger import Commit, Record
from ps.types import Int64, PeerId, frozen


@frozen
class Send:
    """A message without payload."""

    to: PeerId
    body: Any


@frozen
class Keep:
    """Keep these frames of the push in hand, by (worker, slice, number), until their commit or Drop."""

    worker: int
    place_E: list[int]  # positions in the message
    slice_E: list[int]
    seq_E: list[int]


@frozen
class Drop:
    """Let go of kept frames, by (worker, slice, number)."""

    keys: list[tuple[int, int, int]]


@frozen
class DropUnfinished:
    """Let go of the worker's kept frames numbered above these, per slice."""

    worker: int
    kept_S: Int64


@frozen
class Apply:
    """Compute these commits; the runtime reports `on_applied(commits)` when they are in the values."""

    commits: list[Commit]


@frozen
class Answer:
    """Send values: slices by local index, each at exactly this version (the current one or one that is kept).

    A worker at `clock` holds views with these marks; clock -1: a reader, which takes plain values.
    """

    to: PeerId
    id: int
    clock: int
    slices: Int64
    mark_E: Int64
    version_E: Int64
    min_clock_E: Int64
    lr: float
    rate: float


@frozen
class Store:
    """The message in hand brings the initial values of these slices, at these positions."""

    place_E: list[int]
    slice_E: list[int]


@frozen
class Replicate:
    """The record is in the log: followers get it, in this order."""

    record: Record


@frozen
class Forget:
    """Versions below these, of all slices here, are asked for by nobody any more."""

    version_S: Int64


@frozen
class Waited:
    """A pull of `worker` was parked for so long, until `waited_for` opened it."""

    worker: int
    waited_for: int
    seconds: float


Action: TypeAlias = Send | Keep | Drop | DropUnfinished | Apply | Answer | Store | Replicate | Forget | Waited
