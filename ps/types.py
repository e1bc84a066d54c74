"""A type for every id and every kind of array.

Shape letters, used as suffixes of arrays everywhere: `_N` elements of one slice or parameter, `_S` slices of one shard
or session, `_E` slices of one event or message, `_W` workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NewType, TypeVar, dataclass_transform

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

T = TypeVar("T")

JOIN_AHEAD_MAX = 1024  # ranks that a joiner may be above all known ones: a claim must not cost memory
CONTROLLER = PeerId("controller")
NOBODY = WorkerId(-1)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A dataclass whose fields nobody sets, as the type checker sees to.

    For what is made for every message: if Python saw to it, each would take four times as long to make. It cannot be
    hashed.
    """
    return dataclass(slots=True)(cls)


@lru_cache(1 << 14)  # a name is asked for with every message; bounded, as ranks come from the wire
def worker_peer(rank: int) -> PeerId:
    """Where the worker of this rank is reached."""
    return PeerId(f"worker:{rank}")


@lru_cache(1 << 14)
def server_peer(shard: int) -> PeerId:
    """Where the server that holds this shard is reached."""
    return PeerId(f"server:{shard}")
