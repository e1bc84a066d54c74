"""A pull that was begun: what of it is there, and waiting for what is needed first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ps.errors import ConfigError
from ps.types import Array
from ps.worker.actions import PullEntry

if TYPE_CHECKING:
    from ps.worker.runtime import Worker


class PullFuture:
    """Values under way to the arrays of a `pull_later`. Waiting runs the worker, so use it from the worker's thread."""

    def __init__(self, worker: Worker, entry: PullEntry | None, outputs: dict[str, Array], timeout_s: float) -> None:
        self._worker, self._outputs, self._timeout_s = worker, outputs, timeout_s
        self._entry = entry  # None: nothing is under way
        self._is_done = entry is None

    @property
    def is_done(self) -> bool:
        """All values are there, and nothing writes to the arrays any more."""
        return self._is_done

    def wait(self, names: Iterable[str], timeout: float | None = None) -> None:
        """Until the values of these parameters are there. Raises: ConfigError, DeadlineError, StoppedError."""
        ids = set(self._worker.keyspace.slice_ids(names))
        self._wait(ids, timeout)

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """All of them, by name. Raises: as `wait`."""
        self._wait(None, timeout)
        self._is_done = True
        self.end()
        return self._outputs

    def now(self) -> dict[str, Array]:
        """As `result`, but what has failed is given up. For who began it just now."""
        try:
            return self.result()
        finally:
            self.end()

    def end(self) -> None:
        """What is still to come is not taken any more. Twice is once."""
        if self._entry is not None:
            self._worker.abandon(self._entry)
            self._entry = None

    def _wait(self, ids: set[int] | None, timeout: float | None) -> None:
        """For these slices, or for all."""
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout: expected seconds > 0, got {timeout!r}")
        if self._is_done:
            return
        if (entry := self._entry) is None:
            raise ConfigError(
                "pull: expected one that is under way, got one that was given up, as its client was closed or the call "
                "that began it has failed; pull again"
            )
        missing = entry.missing.values()
        self._worker.wait(
            lambda: not missing or (ids is not None and all(ids.isdisjoint(left.tolist()) for left, _ in missing)),
            self._timeout_s if timeout is None else timeout,
            lambda: self._worker.missing.of_pull(entry),
        )
