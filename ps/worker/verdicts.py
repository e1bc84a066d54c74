"""What became of a push: its future and the verdicts that it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ps.consistency import Gather
from ps.errors import ConfigError
from ps.messages import Code

if TYPE_CHECKING:
    from ps.worker.runtime import Worker


@dataclass(frozen=True, slots=True)
class Applied:
    """The push is in this version of the slice."""

    version: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """The push has arrived and waits for its round to be committed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The push was refused; with error feedback it comes back with the next one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Accumulated:
    """Off-cadence: the gradient is part of the next push that travels."""


Verdict: TypeAlias = Applied | Gathered | Refused | Accumulated


class PushFuture:
    """The verdicts of one push, slice by slice. Waiting runs the worker, so use it from the worker's thread."""

    def __init__(self, worker: Worker, push: int, clock: int, local: Verdict | None) -> None:
        self._worker, self._push, self._clock, self._local = worker, push, clock, local

    def __del__(self) -> None:
        self._worker.verdicts.pop(self._push, None)

    @property
    def is_done(self) -> bool:
        """Every slice has its final verdict."""
        return self._push not in self._worker.session.pushes

    def verdicts(self) -> dict[str, Verdict]:
        """What is known now, by slice (named as in messages); slices without any verdict are absent."""
        if self._local is not None:
            return {"": self._local}
        describe = self._worker.keyspace.describe
        known: dict[str, Verdict] = {}
        for slice_id, (code, version) in self._worker.verdicts.get(self._push, {}).items():
            late = Refused(f"late: version {version} was committed without it")
            known[describe(slice_id)] = Applied(version) if code == Code.APPLIED else late
        entry = self._worker.session.pushes.get(self._push)
        for slice_id in entry.gathered if entry is not None else ():
            known[describe(slice_id)] = Gathered()
        return known

    def result(self, timeout: float | None = None) -> dict[str, Verdict]:
        """The final verdict of every slice: Applied or Refused; of a push that did not travel, one under the key "".

        Raises: ConfigError when it cannot come before `tick` (gathering models commit finished clocks); DeadlineError.
        """
        self._worker.check_process()
        session = self._worker.session
        waits_for_tick = isinstance(session.model.commit(1), Gather) and session.clock <= self._clock
        if not self.is_done and waits_for_tick:
            raise ConfigError(
                f"result: under this consistency model the push of clock {self._clock} is committed when the clock is "
                f"finished; call tick() first"
            )
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout: expected seconds > 0, got {timeout!r}; `verdicts()` looks without waiting")
        seconds = self._worker.config.timeout_s if timeout is None else timeout
        self._worker.wait(lambda: self.is_done, seconds, lambda: "push: " + self._worker.missing.verdicts())
        return self.verdicts()
