"""What a cluster says of itself: the status that views, notebooks and commands show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ps.controller.core import Controller
from ps.server.runtime import Server


def status(core: Controller, servers: Mapping[int, Server]) -> dict[str, Any]:
    """Builtin types only. Workers: rank, state, clock, logged. Servers: shard, slices, bytes, version. stopped: why."""
    workers = [
        {"rank": rank, "state": member.state, "clock": member.clock, "logged": dict(member.logged)}
        for rank, member in sorted(core.members.items())
    ]
    shards = [
        {
            "shard": shard,
            "slices": len(server.values.slices),
            "bytes": sum(item.nbytes for item in list(server.values.slices)),
            "version": int(server.shard.ledger.version_S.min(initial=2**62)) if server.values.slices else 0,
        }
        for shard, server in sorted(servers.items())
    ]
    stopped = None if core.stopped is None else core.stopped.reason
    skipped = dict(core.skipped)
    return {"workers": workers, "servers": shards, "stopped": stopped, "skipped_examples": skipped}
