"""What memory a run takes, before it takes it: the formula of docs/memory.md for processes, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ps.compression.base import Codec
from ps.compression.choice import Codecs
from ps.config import RunConfig
from ps.consistency import Cadence, Gather
from ps.keyspace import Slice
from ps.machine import in_words
from ps.optim.base import Optimizer


@dataclass(frozen=True, slots=True)
class Bill:
    """In bytes; what it leaves out is at most some 20 MB per process.

    values: of all parameters, in the servers' dtypes. servers: of each shard; replies: what comes to that at most while
    commits write beside replies that are under way. worker: of each worker, beside what its script takes for its own
    values and gradients.
    """

    elements: int
    values: int
    servers: tuple[int, ...]
    replies: tuple[int, ...]
    worker: int

    def __str__(self) -> str:
        low, high = (in_words(end(self.servers)) for end in (min, max))
        each = " each" if len(self.servers) > 1 and low == high else ""
        servers = f"servers {low} to {high}" if low != high else f"server{'s' * bool(each)} {high}{each}"
        replies = max(self.replies)
        servers += f", and up to {in_words(replies)} for replies under way" if replies >= 1 << 20 else ""
        return (
            f"{self.elements / 1e6:.1f} M parameters, {in_words(self.values)}; {servers}; each worker "
            f"{in_words(self.worker)} beside its script's own values and gradients"
        )


def bill_of(config: RunConfig, slices: Sequence[Slice], shard_S: Sequence[int]) -> Bill:
    """config: with the optimizer in force. shard_S: the shard of each slice."""
    codecs, model, rule = config.codecs(), config.model(), config.rule()
    gathers, cadence = isinstance(model.commit(config.workers), Gather), model.cadence
    servers, replies, worker = [0] * config.servers, [0] * config.servers, 0
    for item, shard in zip(slices, shard_S, strict=True):
        servers[shard] += _server_bytes(config, rule, codecs, item, gathers)
        if item.trainable and not gathers and codecs.of_pull(item) is None:
            replies[shard] += item.nbytes * (config.workers - 1)
        worker += _worker_bytes(config, cadence, codecs, item)
    elements, values = (sum(item.size for item in slices), sum(item.nbytes for item in slices))
    return Bill(elements, values, tuple(servers), tuple(replies), worker)


def _server_bytes(config: RunConfig, rule: Optimizer, codecs: Codecs, item: Slice, gathers: bool) -> int:
    """Values, optimizer state, frames of an open round, views."""
    if not item.trainable:
        return item.nbytes
    n, workers = item.nbytes, config.workers
    copies = 1 + len(rule.state) + config.keep_versions + workers * rule.needs_base
    if codecs.of_pull(item) is not None:
        copies += 1 if gathers else workers
    return n * copies + (workers * _frame_bytes(codecs, item) if gathers else 0)


def _worker_bytes(config: RunConfig, cadence: Cadence, codecs: Codecs, item: Slice) -> int:
    """Frames until their verdict, replica, sums, residuals, views."""
    if not item.trainable:
        return 0
    codec = codecs.of_push(item)
    frames = config.inflight_clocks if cadence.lazy else 1
    copies = int(cadence.lazy or cadence.local_lr is not None) + cadence.accumulates
    copies += _remembered(codec) + (codecs.of_pull(item) is not None)
    ahead = item.nbytes // cadence.fragments if cadence.overlap else 0  # values that wait for their clock
    return item.nbytes * copies + ahead + frames * _frame_bytes(codecs, item)


def _frame_bytes(codecs: Codecs, item: Slice) -> int:
    """The largest frame of a push: raw where a codec begins later."""
    codec = codecs.of_push(item)
    return item.nbytes if codec is None or codec.warmup else codecs.push_bytes(item)


def _remembered(codec: Codec | None) -> int:
    """Arrays as long as the slice that a codec keeps on the worker."""
    if codec is None:
        return 0
    memory = codec.memory(1, 2)
    return (memory.residual_N is not None) + sum(array.size == memory.size for array in memory.arrays.values())
