"""Shards and followers as a run's config asks for."""

from __future__ import annotations

from ps.config import RunConfig
from ps.consistency import Gather
from ps.server.core import Shard
from ps.server.follower import Follower
from ps.server.values import Values


def build_shard(config: RunConfig, shard: int) -> Shard:
    """The empty shard of this number."""
    return Shard(shard, config.workers, config.model(), config.rule(), config.rates(), config.keep_versions)


def build_follower(config: RunConfig) -> Follower:
    """A follower for one of its shards."""
    gathers = isinstance(config.model().commit(config.workers), Gather)
    return Follower(config.workers, Values(config.rule(), gathers, False, config.clip_value))
