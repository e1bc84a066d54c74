"""A pull that was begun: what of it is there, and waiting for what is needed first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ps.errors import ConfigError
from ps.keyspace import Keyspace
from ps.types import Array

if TYPE_CHECKING:
    from ps.worker.runtime import Fetch


class PullFuture:
    """Values under way to the arrays of a `pull_later`. Waiting runs the worker, so use it from the worker's thread."""

    def __init__(self, fetch: Fetch, keyspace: Keyspace, outputs: dict[str, Array], timeout_s: float) -> None:
        self._fetch, self._keyspace, self._outputs, self._timeout_s = fetch, keyspace, outputs, timeout_s
        self._is_done = False

    @property
    def is_done(self) -> bool:
        """`result` has returned: all values are there, and nothing writes to the arrays any more."""
        return self._is_done

    def wait(self, names: Iterable[str], timeout: float | None = None) -> None:
        """Until the values of these parameters are there. Raises: ConfigError, DeadlineError, StoppedError."""
        if not self._is_done:
            self._fetch.wait(self._seconds(timeout), self._keyspace.slice_ids(names))

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """All of them, by name. Raises: as `wait`."""
        if not self._is_done:
            self._fetch.wait(self._seconds(timeout))
            self._fetch.end()
            self._is_done = True
        return self._outputs

    def _seconds(self, timeout: float | None) -> float:
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout: expected seconds > 0, got {timeout!r}")
        return self._timeout_s if timeout is None else timeout
