"""Every message that passes between worker, shard and controller, one class each.

`_E` arrays are parallel: entry i belongs to slice `slice_E[i]` (an id in the cluster-wide list); `_K` arrays are like
them or empty, which means a zero for each slice. Payloads travel beside the header as raw buffers, one per slice, in
the order of `slice_E`; a push may bring more behind them, which its frames share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, TypeAlias

import numpy as np

from ps.keyspace import NAME_BYTES_MAX, Options, Parameter
from ps.types import Clock, Int64, UInt8, WorkerId
from ps.wire import (
    CODECS_K,
    CODES_E,
    COUNT,
    COUNTS_E,
    FLAG,
    IDS_E,
    INT64,
    RANK,
    REAL,
    listing,
    message,
    optional,
    text,
    tuple_of,
)

TEXT_MAX = 16 << 10
Worker: TypeAlias = Annotated[WorkerId, RANK]
Number: TypeAlias = Annotated[int, COUNT]
AtClock: TypeAlias = Annotated[Clock, COUNT]
Ids: TypeAlias = Annotated[Int64, IDS_E]
Counts: TypeAlias = Annotated[Int64, COUNTS_E]
Text: TypeAlias = Annotated[str, text(TEXT_MAX)]
Flag: TypeAlias = Annotated[bool, FLAG]
Real: TypeAlias = Annotated[float, REAL]
Codecs: TypeAlias = Annotated[UInt8, CODECS_K]

RATE_MAX = 1e15  # positions of a data set per second
RAW = 0  # codec ids in codec_K: the slice itself
FACTORS = 11  # rows of a product whose other factor lies in a shared buffer: see ps.factors
SAME = 255  # nothing new
NO_CODECS: UInt8 = np.empty(0, np.uint8)
NO_MARKS: Int64 = np.empty(0, np.int64)
NO_SHARED: Int64 = np.empty(0, np.int64)


class Code(IntEnum):
    """What became of a push on a slice: the verdict."""

    GATHERED = 1  # it is here and waits for its commit; frames are kept, a crash may ask for them again
    APPLIED = 2  # it is in version `version`
    LATE = 3  # refused: its round was committed without it; with error feedback it goes back into the residual


# ---- worker -> shard ----------------------------------------------------------------------------------------------


@message(1)
@dataclass(frozen=True, slots=True)
class Join:
    """A worker (or its new incarnation) asks to take part; answered by Welcome."""

    worker: Worker
    incarnation: Number


@message(2)
@dataclass(frozen=True, slots=True)
class Init:
    """Initial values of new slices, one buffer each; answered by InitDone. A slice keeps the first that came."""

    worker: Worker
    incarnation: Number
    slice_E: Ids


@message(3)
@dataclass(frozen=True, slots=True)
class Push:
    """Gradients or deltas of one clock, one frame per slice. seq_E: gapless push numbers per (worker, slice), from 1.

    base_E: the versions they were computed on. weight: examples behind them. codec_K: what each frame is encoded with.
    shared_K: which of the buffers behind those of the slices belongs to each frame, too; from 1, 0: none.
    """

    worker: Worker
    incarnation: Number
    clock: AtClock
    weight: Real
    slice_E: Ids
    seq_E: Counts
    base_E: Counts
    codec_K: Codecs = field(default_factory=lambda: NO_CODECS)
    shared_K: Counts = field(default_factory=lambda: NO_SHARED)


@message(4)
@dataclass(frozen=True, slots=True)
class Tick:
    """The worker has finished `clock`; on each slice all its pushes of it are numbered <= seq_E. Answered by Ticked.

    base_E: the versions it worked on. Slices that are not named got no push.
    """

    worker: Worker
    incarnation: Number
    clock: AtClock
    slice_E: Ids
    seq_E: Counts
    base_E: Counts


@message(5)
@dataclass(frozen=True, slots=True)
class Pull:
    """Asks for values at a clock, once the own pushes numbered <= seq_E have a verdict; answered by Values.

    oldest: the least id this worker still waits for: anything below is a late copy. late: a tick of the clock before
    came too late for a round, so the worker reads what there is: whoever waits for its push must not be waited for.
    mark_K: of the view that it holds of each slice, 0: none (see Values).
    """

    worker: Worker
    incarnation: Number
    id: Number
    oldest: Number
    clock: AtClock
    late: Flag
    slice_E: Ids
    seq_E: Counts
    mark_K: Counts = field(default_factory=lambda: NO_MARKS)


@message(6)
@dataclass(frozen=True, slots=True)
class Read:
    """A reader asks for the current values; no clock, no gate. Answered by Values."""

    id: Number
    slice_E: Ids


@message(7)
@dataclass(frozen=True, slots=True)
class Leave:
    """The worker has finished for good and leaves the clock minimum. Answered by LeaveDone."""

    worker: Worker
    incarnation: Number


@message(8)
@dataclass(frozen=True, slots=True)
class Ask:
    """What became of these pushes? They have arrived, their final verdict has not come back. Answered by Verdicts."""

    worker: Worker
    incarnation: Number
    slice_E: Ids
    seq_E: Counts


# ---- shard -> worker ----------------------------------------------------------------------------------------------


@message(20)
@dataclass(frozen=True, slots=True)
class Welcome:
    """Where the worker stands on each slice: last push number with a final verdict, finished clock.

    joined: it was not a member before; it starts at the largest clock that any shard names. ahead: pushes of
    unfinished clocks that an earlier incarnation got applied, one entry each: they are not pushed again.
    """

    incarnation: Number
    joined: Flag
    clock: AtClock  # of the shard as a whole, for shards that hold no slices
    slice_E: Ids
    seq_E: Counts
    clock_E: Counts
    ahead_slice_P: Ids
    ahead_clock_P: Counts


@message(21)
@dataclass(frozen=True, slots=True)
class InitDone:
    slice_E: Ids


@message(22)
@dataclass(frozen=True, slots=True)
class Verdicts:
    """What became of pushes. version_E: the version that holds it (APPLIED), or that it came too late for (LATE)."""

    incarnation: Number
    slice_E: Ids
    seq_E: Counts
    code_E: Annotated[UInt8, CODES_E]
    version_E: Counts


@message(23)
@dataclass(frozen=True, slots=True)
class Gap:
    """Pushes are missing: the last number taken is seq_E; send again from there."""

    incarnation: Number
    slice_E: Ids
    seq_E: Counts


@message(24)
@dataclass(frozen=True, slots=True)
class Ticked:
    """late: it came after a round was committed without it, on some slice."""

    incarnation: Number
    clock: AtClock
    late: Flag


@message(25)
@dataclass(frozen=True, slots=True)
class Values:
    """Values, one buffer per slice, each exactly one version. lr: the rate in force (error feedback rescales by it).

    rate: what models that apply on arrival multiply it with. Where pulls are compressed, codec_K says what a buffer is:
    the view whole (RAW), nothing new (SAME), or a frame that takes the view from mark - 1 to mark_K.
    """

    id: Number
    slice_E: Ids
    version_E: Counts
    min_clock_E: Counts
    lr: Real
    rate: Real
    codec_K: Codecs = field(default_factory=lambda: NO_CODECS)
    mark_K: Counts = field(default_factory=lambda: NO_MARKS)


@message(26)
@dataclass(frozen=True, slots=True)
class Waiting:
    """The pull is parked; asked again, the shard says for whom: a worker, its clock, its last sign of life.

    The controller says so of a barrier, or of a batch that has no initial values: `id` is its number, `slice` -1.

    silent_s: seconds since then, -1: it was never heard of.
    """

    id: Number
    slice: Annotated[int, RANK]
    worker: Worker  # -1: the initial values are missing
    clock: Annotated[int, INT64]
    silent_s: Real


@message(27)
@dataclass(frozen=True, slots=True)
class LeaveDone:
    incarnation: Number


@message(28)
@dataclass(frozen=True, slots=True)
class Rejected:
    """The peer's message was refused; fatal for this incarnation when `fenced`."""

    incarnation: Number
    reason: Text
    fenced: Flag


# ---- control plane ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spec:
    """One registered parameter on the wire."""

    name: Annotated[str, text(NAME_BYTES_MAX)]
    shape: Annotated[tuple[int, ...], tuple_of(COUNT, 64)]
    dtype: Annotated[str, text(16)]
    lr_scale: Real
    weight_decay: Annotated[float | None, optional(REAL)]
    push_compression: Annotated[str | None, optional(text(NAME_BYTES_MAX))]
    pull_compression: Annotated[str | None, optional(text(NAME_BYTES_MAX))]
    frozen: Flag
    slice_elements: Number

    @classmethod
    def of(cls, p: Parameter) -> Spec:
        o = p.options
        both = o.push_compression, o.pull_compression
        return cls(p.name, p.shape, p.dtype, o.lr_scale, o.weight_decay, *both, o.frozen, o.slice_elements)

    def parameter(self) -> Parameter:
        """Raises: ConfigError when the claim is not a parameter we can hold."""
        both = self.push_compression, self.pull_compression
        options = Options(self.lr_scale, self.weight_decay, *both, self.frozen, self.slice_elements)
        return Parameter(self.name, self.shape, self.dtype, options)


Specs: TypeAlias = Annotated[tuple[Spec, ...], listing(Spec, 1 << 20)]


@message(40)
@dataclass(frozen=True, slots=True)
class Enroll:
    """Worker or reader -> controller: rank -1 asks for any free one. Answered by Enrolled.

    nonce: another for each start of a process, so that nobody takes the answer to one that died at its address.
    """

    rank: Worker
    reader: Flag
    nonce: Number


@message(41)
@dataclass(frozen=True, slots=True)
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
@dataclass(frozen=True, slots=True)
class Register:
    """A batch of parameters; all workers register the same batches in the same order. Answered by Registered."""

    worker: Worker
    incarnation: Number
    batch: Number
    specs: Specs
    link: Real = 0.0  # bytes per second that this worker has measured to a server, where the run asks for it
    optimizer: Text = ""  # the server optimizer that the script asks for, where the run names none


@message(43)
@dataclass(frozen=True, slots=True)
class Registered:
    """Where the batch lives. initialise: this worker's values are the initial ones: it sends them to the shards, says
    BatchReady, and is answered once more, like all others then."""

    batch: Number
    initialise: Flag
    epoch: Number
    shard_E: Counts
    compression: Text = ""  # what `auto` has become for this batch, and why
    why: Text = ""


@message(64)
@dataclass(frozen=True, slots=True)
class Probe:
    """Worker -> shard, which sends it back with the same buffer: the time it takes measures the link."""

    id: Number


@message(59)
@dataclass(frozen=True, slots=True)
class BatchReady:
    """Worker -> controller: the shards have the initial values of this batch."""

    worker: Worker
    incarnation: Number
    batch: Number


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


@message(46)
@dataclass(frozen=True, slots=True)
class Progress:
    """Worker -> controller: a heartbeat that carries progress, not mere life."""

    worker: Worker
    incarnation: Number
    clock: AtClock


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


@message(49)
@dataclass(frozen=True, slots=True)
class Barrier:
    """Worker -> controller: it has come to this barrier. begun: it has finished a clock in this incarnation."""

    worker: Worker
    incarnation: Number
    number: Number
    begun: Flag


@message(50)
@dataclass(frozen=True, slots=True)
class BarrierOpen:
    number: Number


@message(51)
@dataclass(frozen=True, slots=True)
class Stop:
    """Anyone -> controller, controller -> all: the job ends; failed: as an error."""

    reason: Text
    failed: Flag


@message(52)
@dataclass(frozen=True, slots=True)
class Lost:
    """Controller -> shard: this worker is gone. wait: its place is kept for a new incarnation."""

    worker: Worker
    incarnation: Number
    wait: Flag


@message(53)
@dataclass(frozen=True, slots=True)
class Done:
    """Worker -> controller: train() returned (error empty) or raised."""

    worker: Worker
    incarnation: Number
    error: Text


@message(54)
@dataclass(frozen=True, slots=True)
class EpochDone:
    """Worker -> controller: it has been through its part of this data epoch."""

    worker: Worker
    incarnation: Number
    epoch: Number


@message(55)
@dataclass(frozen=True, slots=True)
class EpochEnd:
    """Controller -> workers: enough workers have finished this data epoch; go on to the next."""

    epoch: Number


@message(56)
@dataclass(frozen=True, slots=True)
class Skipped:
    """Worker -> controller: examples of this epoch that it left out because of EpochEnd."""

    worker: Worker
    incarnation: Number
    epoch: Number
    examples: Number


@message(65)
@dataclass(frozen=True, slots=True)
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
@dataclass(frozen=True, slots=True)
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
@dataclass(frozen=True, slots=True)
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
@dataclass(frozen=True, slots=True)
class SetLr:
    """Worker -> controller: from `at_clock` on the learning rate is `lr`. Answered by LrSet."""

    worker: Worker
    incarnation: Number
    id: Number
    lr: Real
    at_clock: AtClock


@message(60)
@dataclass(frozen=True, slots=True)
class LrSet:
    """The change of this id is in force on every shard."""

    id: Number


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


@message(58)
@dataclass(frozen=True, slots=True)
class Log:
    """Worker -> controller: metrics of one clock, logged `ago` seconds before: for the view, stop rules, sweeps."""

    worker: Worker
    incarnation: Number
    clock: AtClock
    ago: Annotated[float, REAL]
    names: Annotated[tuple[str, ...], tuple_of(text(NAME_BYTES_MAX), 256)]
    values: Annotated[tuple[float, ...], tuple_of(REAL, 256)]
