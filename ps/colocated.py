"""`servers = "colocated"`: one shard beside each worker, so as many as there are workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ps.errors import ConfigError

COLOCATED = "colocated"
ENDPOINT = "ipc://@ps-{job}-{shard}"  # a name of the kernel's, no file: nothing is left after kill -9


def is_colocated(options: Mapping[str, Any]) -> bool:
    """These options of a run ask for it."""
    return options.get("servers") == COLOCATED


def counted(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a number of servers, as RunConfig takes it. Raises: ConfigError when it is another word."""
    servers = options.get("servers")
    if servers == COLOCATED:
        return {**options, "servers": options.get("workers", 1)}
    if isinstance(servers, str) and not servers.strip().isdecimal():
        raise ConfigError(f"servers: expected a number >= 1, or {COLOCATED}, got {servers!r}")
    return dict(options)


def endpoint(job: bytes, shard: int) -> str:
    """Where a server listens that only processes of its own machine dial."""
    return ENDPOINT.format(job=job.hex(), shard=shard)
