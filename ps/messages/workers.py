"""Between workers and the controller: ranks, parameters, barriers, epochs, examples, rates, the end."""

from __future__ import annotations

from typing import Annotated

from ps.keyspace import NAME_BYTES_MAX
from ps.messages.fields import AtClock, Counts, Flag, Number, Real, Specs, Text, Worker
from ps.types import frozen
from ps.wire import INT64, REAL, message, text, tuple_of


@message(40)
@frozen
class Enroll:
    """Worker or reader -> controller: rank -1 asks for any free one. Answered by Enrolled.

    nonce: another for each start of a process, so that nobody takes the answer to one that died at its address.
    """

    rank: Worker
    reader: Flag
    nonce: Number


@message(41)
@frozen
class Enrolled:
    """The controller's word on rank, incarnation and run. The server is the authority: config is the run's own JSON.

    barriers: opened so far. epochs: data epochs that have ended. passed: barriers that an earlier incarnation has been
    through before its first clock; this one is not held up there again.
    """

    rank: Worker
    incarnation: Number
    nonce: Number  # of the Enroll
    size: Number
    config: Annotated[str, text(1 << 20)]
    barriers: Number = 0
    epochs: Number = 0
    passed: Number = 0


@message(42)
@frozen
class Register:
    """A batch of parameters; all workers register the same batches in the same order. Answered by Registered."""

    worker: Worker
    incarnation: Number
    batch: Number
    specs: Specs
    link: Real = 0.0  # bytes per second that this worker has measured to a server, where the run asks for it
    optimizer: Text = ""  # the server optimizer that the script asks for, where the run names none


@message(43)
@frozen
class Registered:
    """Where the batch lives. initialise: this worker's values are the initial ones: it sends them to the shards, says
    BatchReady, and is answered once more, like all others then."""

    batch: Number
    initialise: Flag
    epoch: Number
    shard_E: Counts
    compression: Text = ""  # what `auto` has become for this batch, and why
    why: Text = ""


@message(59)
@frozen
class BatchReady:
    """Worker -> controller: the shards have the initial values of this batch."""

    worker: Worker
    incarnation: Number
    batch: Number


@message(46)
@frozen
class Progress:
    """Worker -> controller: a heartbeat that carries progress, not mere life."""

    worker: Worker
    incarnation: Number
    clock: AtClock


@message(49)
@frozen
class Barrier:
    """Worker -> controller: it has come to this barrier. begun: it has finished a clock in this incarnation."""

    worker: Worker
    incarnation: Number
    number: Number
    begun: Flag


@message(50)
@frozen
class BarrierOpen:
    number: Number


@message(54)
@frozen
class EpochDone:
    """Worker -> controller: it has been through its part of this data epoch."""

    worker: Worker
    incarnation: Number
    epoch: Number


@message(55)
@frozen
class EpochEnd:
    """Controller -> workers: enough workers have finished this data epoch; go on to the next."""

    epoch: Number


@message(56)
@frozen
class Skipped:
    """Worker -> controller: examples of this epoch that it left out because of EpochEnd."""

    worker: Worker
    incarnation: Number
    epoch: Number
    examples: Number


@message(65)
@frozen
class Lease:
    """Worker -> controller: it asks for its next examples of a data set. Answered by Leased, once there are any; else
    by Withheld, each time it is asked.

    Positions run over all epochs: place p of epoch e is e * examples + p. id: grows with each question of this
    incarnation. clock: its own. size: positions asked for at most; 0: no question, only news. waits: it pushes nothing
    until it has an answer, and closes no clock. rate: positions that it computes per second, waits left out; 0: not
    known yet. start_P, stop_P: what it is through with.
    """

    worker: Worker
    incarnation: Number
    data: Annotated[str, text(NAME_BYTES_MAX)]
    examples: Number
    epochs: Number
    id: Number
    clock: Number
    size: Number
    waits: Flag
    rate: Real
    start_P: Counts
    stop_P: Counts


@message(66)
@frozen
class Leased:
    """Positions [start, stop), of one epoch, are this worker's; none: all are done. floor: all below is done.

    pace, share: its rate over the mean of all workers' and over the largest; 1 while that is not known. until: where
    all is done, the clock at which every worker ends.
    """

    data: Annotated[str, text(NAME_BYTES_MAX)]
    id: Number
    start: Number
    stop: Number
    floor: Number
    pace: Real
    share: Real
    until: Number


@message(67)
@frozen
class Withheld:
    """Nothing is free: others still hold the rest. worker: one that does; its clock, its last sign of life.

    asked: the clock of the question. The worker may close it, and no further one before it has asked again.
    """

    data: Annotated[str, text(NAME_BYTES_MAX)]
    id: Number
    asked: Number
    worker: Worker
    clock: Annotated[int, INT64]
    silent_s: Real


@message(57)
@frozen
class SetLr:
    """Worker -> controller: from `at_clock` on the learning rate is `lr`. Answered by LrSet."""

    worker: Worker
    incarnation: Number
    id: Number
    lr: Real
    at_clock: AtClock


@message(60)
@frozen
class LrSet:
    """The change of this id is in force on every shard."""

    id: Number


@message(58)
@frozen
class Log:
    """Worker -> controller: metrics of one clock, logged `ago` seconds before: for the view, stop rules, sweeps."""

    worker: Worker
    incarnation: Number
    clock: AtClock
    ago: Annotated[float, REAL]
    names: Annotated[tuple[str, ...], tuple_of(text(NAME_BYTES_MAX), 256)]
    values: Annotated[tuple[float, ...], tuple_of(REAL, 256)]


@message(53)
@frozen
class Done:
    """Worker -> controller: train() returned (error empty) or raised."""

    worker: Worker
    incarnation: Number
    error: Text


@message(51)
@frozen
class Stop:
    """Anyone -> controller, controller -> all: the job ends; failed: as an error."""

    reason: Text
    failed: Flag
