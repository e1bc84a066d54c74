"""Every message that passes between worker, shard and controller, one class each.

`_E` arrays are parallel: entry i belongs to slice `slice_E[i]` (an id in the cluster-wide list); `_K` arrays are like
them or empty, which means a zero for each slice. Payloads travel beside the header as raw buffers, one per slice, in
the order of `slice_E`; a push may bring more behind them, which its frames share.

`data`, `workers` and `shards` hold them by who talks to whom, `fields` what they are made of.
"""

from __future__ import annotations

from ps.messages.data import (
    Ask,
    Gap,
    Init,
    InitDone,
    Join,
    Leave,
    LeaveDone,
    Probe,
    Pull,
    Push,
    Read,
    Rejected,
    Tick,
    Ticked,
    Values,
    Verdicts,
    Waiting,
    Welcome,
)
from ps.messages.fields import (
    FACTORS,
    NO_CODECS,
    NO_MARKS,
    NO_SHARED,
    RATE_MAX,
    RAW,
    SAME,
    TEXT_MAX,
    AtClock,
    Code,
    Codecs,
    Counts,
    Flag,
    Ids,
    Number,
    Real,
    Spec,
    Specs,
    Text,
    Worker,
)
from ps.messages.shards import Committed, CommittedByAll, Confirmed, Lost, Place, Placed, Rate, Rest
from ps.messages.workers import (
    Barrier,
    BarrierOpen,
    BatchReady,
    Done,
    Enroll,
    Enrolled,
    EpochDone,
    EpochEnd,
    Lease,
    Leased,
    Log,
    LrSet,
    Progress,
    Register,
    Registered,
    SetLr,
    Skipped,
    Stop,
    Withheld,
)

__all__ = [
    "TEXT_MAX", "Worker", "Number", "AtClock", "Ids", "Counts", "Text", "Flag", "Real", "Codecs", "RATE_MAX", "RAW",
    "FACTORS", "SAME", "NO_CODECS", "NO_MARKS", "NO_SHARED", "Code", "Spec", "Specs",
    "Join", "Init", "Push", "Tick", "Pull", "Read", "Leave", "Ask", "Welcome", "InitDone", "Verdicts", "Gap",
    "Ticked", "Values", "Waiting", "LeaveDone", "Rejected", "Probe",
    "Enroll", "Enrolled", "Register", "Registered", "BatchReady", "Progress", "Barrier", "BarrierOpen", "Done",
    "EpochDone", "EpochEnd", "Skipped", "Lease", "Leased", "Withheld", "SetLr", "LrSet", "Log", "Stop",
    "Place", "Placed", "Committed", "CommittedByAll", "Lost", "Rate", "Rest", "Confirmed",
]  # fmt: skip
