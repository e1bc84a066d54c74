"""What all calls of a client rest on: who and where this worker is, the checks before each call, the post."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ps.config import RunConfig
from ps.errors import ConfigError
from ps.metrics import Metrics
from ps.types import CONTROLLER
from ps.worker.checks import checked_number
from ps.worker.runtime import Worker


class Calls:
    """A worker as its script sees it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._closed = False

    # ---- who and where ----------------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """This worker's rank, from 0; kept across restarts."""
        return self._worker.rank

    @property
    def size(self) -> int:
        """Workers of the run."""
        return self._worker.size

    @property
    def clock(self) -> int:
        """Clocks that this worker has finished; a restarted worker goes on from here."""
        return self._worker.session.clock

    @property
    def config(self) -> RunConfig:
        """The run's options, as the controller told them, with the optimizer that the script has asked for."""
        return self._worker.config

    @property
    def seed(self) -> int:
        """The run's seed, 0 when none was given: for data order and initial values."""
        return self._worker.config.seed or 0

    @property
    def lr(self) -> float:
        """The learning rate in force at the last pull."""
        return self._worker.session.lr

    @property
    def bundles(self) -> list[tuple[str, ...]]:
        """The trainable parameters, those together that have to be pushed together: small ones share a slice."""
        keyspace = self._worker.keyspace
        names = [
            tuple(keyspace.parameters[piece.parameter].name for piece in s.pieces)
            for s in keyspace.slices
            if s.trainable
        ]
        return list(dict.fromkeys(names))

    def push_bytes(self, names: Iterable[str]) -> int:
        """Bytes of payload that a push of these parameters takes at most, encoded as the run says."""
        keyspace, codecs = self._worker.keyspace, self._worker.arrays.codecs
        return sum(codecs.push_bytes(keyspace.slices[i]) for i in keyspace.slice_ids(names))

    def factors_pay(self, name: str, k: int) -> bool:
        """Whether factors of k rows of this matrix would travel, were they pushed now: so they are worth keeping."""
        return self._worker.schemes.pay(name, k)

    @property
    def fetches_next(self) -> bool:
        """Whether the pull after this clock's tick fetches values, rather than giving the worker's own."""
        return self._worker.session.pull_travels

    @property
    def now(self) -> float:
        """Seconds, monotonic: of this machine's clock, or virtual ones in a seeded cluster."""
        return self._worker.port.now()

    @property
    def busy_s(self) -> float:
        """Seconds, from any begin, that this worker has not spent waiting for others: the difference of two counts."""
        return self._worker.busy_s

    @property
    def metrics(self) -> Metrics:
        """This worker's counters and histograms."""
        return self._worker.metrics

    @property
    def should_stop(self) -> bool:
        """True once the job was stopped: leave the loop."""
        if not self._closed:
            self._worker.poll()
        return self._worker.stopped is not None

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _post(self, body: Any) -> None:
        self._worker.post(CONTROLLER, body)

    def _timeout(self, timeout: float | None) -> float:
        seconds = self._worker.config.timeout_s if timeout is None else checked_number("timeout", timeout)
        if not seconds > 0:
            raise ConfigError(f"timeout: expected seconds > 0, got {timeout!r}; None means the run's timeout_s")
        return seconds

    def _open(self, call: str) -> None:
        if self._closed:
            raise ConfigError(f"{call}: this client is closed; call it before close() or the end of its with block")

    def _registered(self, call: str) -> None:
        self._open(call)
        if not self._worker.registration.batches:
            raise ConfigError(f"{call}: no parameters yet; call client.register({{name: array}}) first")
