"""A sink: where a run's config, its logged values and its outcome go. One file for each system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ps.launch.rules import RUN, Report


@dataclass(frozen=True)
class Started:
    """What a run is."""

    name: str  # of its own: TIME-JOB
    folder: Path | None  # of its logs; None: it could not be made
    script: str
    args: tuple[str, ...]
    config: Mapping[str, Any]  # builtin types
    began: float  # time.time(); the seconds of a report count from here


class Sink(ABC):
    """Called by one thread of its own (`ps.launch.sinks.queued`), so it may block. What it raises ends it, not the run.

    Imports of what it stands for belong into `start`: nobody else pays for them.
    """

    package: ClassVar[str] = ""  # to be imported; its extra of `paramserver` has the sink's name

    @abstractmethod
    def start(self, run: Started) -> None:
        """First of all."""

    @abstractmethod
    def submitted(self, script: str, args: tuple[str, ...], by: str) -> None:
        """`psctl controller` has got its job."""

    @abstractmethod
    def logged(self, reports: Iterable[Report]) -> None:
        """Values that are new, of all workers and of the run, by time."""

    @abstractmethod
    def end(self, outcome: Mapping[str, Any]) -> None:
        """Last: reason, exit_code, seconds, clocks, restarts; not called after a failure."""


def by_worker(report: Report) -> str:
    """`loss/worker_0`, or the plain name of what belongs to the run: for systems that have one table of names."""
    return report.name if report.rank == RUN else f"{report.name}/worker_{report.rank}"
