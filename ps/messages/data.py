"""Between workers (or readers) and shards: values, gradients, clocks."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from ps.messages.fields import (
    NO_CODECS,
    NO_MARKS,
    NO_SHARED,
    AtClock,
    Codecs,
    Counts,
    Flag,
    Ids,
    Number,
    Real,
    Text,
    Worker,
)
from ps.types import UInt8, frozen
from ps.wire import CODES_E, INT64, RANK, message

# ---- worker -> shard ------------------------------------------------------------------------------------------------


@message(1)
@frozen
class Join:
    """A worker (or its new incarnation) asks to take part; answered by Welcome."""

    worker: Worker
    incarnation: Number


@message(2)
@frozen
class Init:
    """Initial values of new slices, one buffer each; answered by InitDone. A slice keeps the first that came."""

    worker: Worker
    incarnation: Number
    slice_E: Ids


@message(3)
@frozen
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
@frozen
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
@frozen
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
@frozen
class Read:
    """A reader asks for the current values; no clock, no gate. Answered by Values."""

    id: Number
    slice_E: Ids


@message(7)
@frozen
class Leave:
    """The worker has finished for good and leaves the clock minimum. Answered by LeaveDone."""

    worker: Worker
    incarnation: Number


@message(8)
@frozen
class Ask:
    """What became of these pushes? They have arrived, their final verdict has not come back. Answered by Verdicts."""

    worker: Worker
    incarnation: Number
    slice_E: Ids
    seq_E: Counts


# ---- shard -> worker ------------------------------------------------------------------------------------------------


@message(20)
@frozen
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
@frozen
class InitDone:
    slice_E: Ids


@message(22)
@frozen
class Verdicts:
    """What became of pushes. version_E: the version that holds it (APPLIED), or that it came too late for (LATE)."""

    incarnation: Number
    slice_E: Ids
    seq_E: Counts
    code_E: Annotated[UInt8, CODES_E]
    version_E: Counts


@message(23)
@frozen
class Gap:
    """Pushes are missing: the last number taken is seq_E; send again from there."""

    incarnation: Number
    slice_E: Ids
    seq_E: Counts


@message(24)
@frozen
class Ticked:
    """late: it came after a round was committed without it, on some slice."""

    incarnation: Number
    clock: AtClock
    late: Flag


@message(25)
@frozen
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
@frozen
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
@frozen
class LeaveDone:
    incarnation: Number


@message(28)
@frozen
class Rejected:
    """The peer's message was refused; fatal for this incarnation when `fenced`."""

    incarnation: Number
    reason: Text
    fenced: Flag


# ---- both ways ------------------------------------------------------------------------------------------------------


@message(64)
@frozen
class Probe:
    """Worker -> shard, which sends it back with the same buffer: the time it takes measures the link."""

    id: Number
