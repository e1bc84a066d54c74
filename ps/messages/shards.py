"""Between the controller and shards: placement, commits, losses, learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from ps.messages.fields import AtClock, Counts, Flag, Number, Real, Specs, Text, Worker
from ps.wire import message


@message(44)
@dataclass(frozen=True, slots=True)
class Place:
    """Controller -> shard: a batch of parameters and where each of its slices lives. Answered by Placed."""

    batch: Number
    specs: Specs
    epoch: Number
    shard_E: Counts
    optimizer: Text = ""  # the script's, which takes the place of the run's


@message(45)
@dataclass(frozen=True, slots=True)
class Placed:
    shard: Number
    epoch: Number


@message(47)
@dataclass(frozen=True, slots=True)
class Committed:
    """Shard -> controller: all its slices have committed the rounds that end up to this clock."""

    shard: Number
    clock: Number


@message(48)
@dataclass(frozen=True, slots=True)
class CommittedByAll:
    """Controller -> shard: every shard has committed the rounds up to this clock; versions from before may go."""

    clock: Number


@message(52)
@dataclass(frozen=True, slots=True)
class Lost:
    """Controller -> shard: this worker is gone. wait: its place is kept for a new incarnation."""

    worker: Worker
    incarnation: Number
    wait: Flag


@message(61)
@dataclass(frozen=True, slots=True)
class Rate:
    """Controller -> shard: the learning rate from a clock on. Answered by Confirmed."""

    order: Number
    lr: Real
    at_clock: AtClock


@message(62)
@dataclass(frozen=True, slots=True)
class Rest:
    """Controller -> shard: the worker waits for others and pushes nothing meanwhile, or it goes on. Answered by
    Confirmed."""

    order: Number
    worker: Worker
    resting: Flag


@message(63)
@dataclass(frozen=True, slots=True)
class Confirmed:
    """Shard -> controller: this order is carried out."""

    shard: Number
    order: Number
