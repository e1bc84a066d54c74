"""A type for every id and every kind of array.

Shape letters, used as suffixes of arrays everywhere: `_N` elements of one slice or parameter, `_S` slices of one shard
or session, `_E` slices of one event or message, `_W` workers.
"""

from __future__ import annotations

from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

WorkerId = NewType("WorkerId", int)  # rank, from 0; kept across restarts
ShardId = NewType("ShardId", int)  # from 0
SliceId = NewType("SliceId", int)  # index in the cluster's append-only list of slices
Clock = NewType("Clock", int)  # finished iterations of a worker
Version = NewType("Version", int)  # commits of a slice
PeerId = NewType("PeerId", str)  # "worker:3", "server:0", "controller", "reader:0"

Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Float = NDArray[np.floating[Any]]  # float32 or float64: the master dtype of its slice
Float32 = NDArray[np.float32]
Array = NDArray[Any]

JOIN_AHEAD_MAX = 1024  # ranks that a joiner may be above all known ones: a claim must not cost memory
CONTROLLER = PeerId("controller")
NOBODY = WorkerId(-1)


def worker_peer(rank: int) -> PeerId:
    """Where the worker of this rank is reached."""
    return PeerId(f"worker:{rank}")


def server_peer(shard: int) -> PeerId:
    """Where the server that holds this shard is reached."""
    return PeerId(f"server:{shard}")
