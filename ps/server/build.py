"""Servers and followers as a run's config asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ps.config import RunConfig
from ps.consistency import Gather
from ps.metrics import Metrics
from ps.record.entries import Header
from ps.record.writer import Recorder
from ps.server.core import Shard
from ps.server.follower import Follower
from ps.server.ledger import Commit, Record
from ps.server.runtime import Server
from ps.server.values import Values
from ps.transport.base import Message
from ps.types import PeerId


def build_shard(config: RunConfig, shard: int) -> Shard:
    """The empty shard of this number."""
    return Shard(shard, config.workers, config.model(), config.rule(), config.rates(), config.keep_versions)


def build_server(
    config: RunConfig,
    shard: int,
    job: bytes,
    send: Callable[[PeerId, Message], None],
    *,
    follower: bool = False,
    defer: Callable[[list[Commit]], None] | None = None,
    watch: Callable[[Record], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    record: Path | None = None,
) -> Server:
    """The server that holds the shard of this number, empty; with a follower beside it where one is asked for.

    record: the folder where it writes down what it applies. Raises: ConfigError when that file cannot be made.
    """
    metrics = Metrics()
    metrics.traces = config.trace
    return Server(
        build_shard(config, shard),
        job,
        send,
        metrics,
        follower=build_follower(config) if follower else None,
        defer=defer,
        watch=watch,
        clip_value=config.clip_value,
        codecs=config.codecs(),
        clock=clock,
        recorder=None if record is None else Recorder(record, Header(shard, job.hex(), config)),
    )


def build_follower(config: RunConfig) -> Follower:
    """A follower for one of its shards."""
    gathers = isinstance(config.model().commit(config.workers), Gather)
    return Follower(config.workers, Values(config.rule(), gathers, False, config.clip_value, config.codecs()))
