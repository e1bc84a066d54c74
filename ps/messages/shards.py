"""Between the controller and shards: placement, commits, losses, learning rates."""

from __future__ import annotations

from ps.messages.fields import AtClock, Counts, Flag, Number, Real, Specs, Text, Worker
from ps.types import frozen
from ps.wire import message


@message(44)
@frozen
class Place:
    """Controller -> shard: a batch of parameters and where each of its slices lives. Answered by Placed."""

    batch: Number
    specs: Specs
    epoch: Number
    shard_E: Counts
    optimizer: Text = ""  # the script's, which takes the place of the run's


@message(45)
@frozen
class Placed:
    shard: Number
    epoch: Number


@message(47)
@frozen
class Committed:
    """Shard -> controller: all its slices have committed the rounds that end up to this clock."""

    shard: Number
    clock: Number


@message(48)
@frozen
class CommittedByAll:
    """Controller -> shard: every shard has committed the rounds up to this clock; versions from before may go."""

    clock: Number


@message(52)
@frozen
class Lost:
    """Controller -> shard: this worker is gone. wait: its place is kept for a new incarnation."""

    worker: Worker
    incarnation: Number
    wait: Flag


@message(61)
@frozen
class Rate:
    """Controller -> shard: the learning rate from a clock on. Answered by Confirmed."""

    order: Number
    lr: Real
    at_clock: AtClock


@message(62)
@frozen
class Rest:
    """Controller -> shard: the worker waits for others and pushes nothing meanwhile, or it goes on. Answered by
    Confirmed."""

    order: Number
    worker: Worker
    resting: Flag


@message(63)
@frozen
class Confirmed:
    """Shard -> controller: this order is carried out."""

    shard: Number
    order: Number
