"""When a run is to stop: pure functions of what workers have reported."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ps.control.logs import Logged
from ps.errors import ConfigError

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_LOWER_IS_BETTER = ("loss", "err")  # in a metric's name
RUN = -1  # the rank of what belongs to no worker
EPOCH = "epoch"  # the metric that --stop-after 10epochs counts


class Report(NamedTuple):
    """One logged value."""

    seconds: float  # since the start of the run
    rank: int  # or RUN
    clock: int
    name: str
    value: float


class Progress(NamedTuple):
    """Where the run is: what the rules look at."""

    seconds: float  # since its start
    clocks: list[int]  # of the workers that are neither lost nor done
    epochs: list[float]  # their logged `epoch`, 0 where there is none


class Rule(Protocol):
    """Says why the run is to stop, or None."""

    def reason(self, progress: Progress, reports: Iterable[Report]) -> str | None: ...


@dataclass(frozen=True)
class StopAfter:
    """`5000clocks`: every worker has finished so many. `600s`: seconds since the start of the run. `10epochs`: every
    worker has logged so many, `client.log(epoch=finished)`; the launcher knows of no epochs but those.
    """

    amount: float
    unit: str

    def share(self, progress: Progress) -> float:
        """How much of it is done, 0 to 1."""
        done = {
            "s": progress.seconds,
            "clocks": min(progress.clocks, default=0),
            "epochs": min(progress.epochs, default=0),
        }[self.unit]
        return min(1.0, done / self.amount)

    def reason(self, progress: Progress, reports: Iterable[Report]) -> str | None:
        return f"--stop-after {self.amount:g}{self.unit} is reached" if self.share(progress) >= 1 else None


@dataclass(frozen=True)
class StopWhen:
    """`val_acc>=0.97`: as soon as one worker logs such a value."""

    name: str
    sign: str
    bound: float

    def reason(self, progress: Progress, reports: Iterable[Report]) -> str | None:
        for report in reports:
            if report.name == self.name and _COMPARE[self.sign](report.value, self.bound):
                return f"--stop-when {self.name}{self.sign}{self.bound:g}: worker {report.rank} logged {report.value:g}"
        return None


class Patience:
    """`val_loss:5`: five reports in a row, of whichever workers, brought nothing better than the best before them.

    Lower is better when the name holds "loss" or "err"; else higher is.
    """

    def __init__(self, name: str, reports: int) -> None:
        self.name, self.reports = name, reports
        self.sign = -1.0 if any(part in name.lower() for part in _LOWER_IS_BETTER) else 1.0
        self.best = float("-inf")
        self.since = 0  # reports without a better one

    def reason(self, progress: Progress, reports: Iterable[Report]) -> str | None:
        for report in reports:
            if report.name == self.name:
                better = self.sign * report.value > self.best
                self.best, self.since = (self.sign * report.value, 0) if better else (self.best, self.since + 1)
                if self.since >= self.reports:
                    best = self.sign * self.best
                    return (
                        f"--patience {self.name}:{self.reports}: {self.since} reports brought none better than {best:g}"
                    )
        return None


def stop_after(text: str) -> StopAfter:
    """Raises: ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(epochs?|clocks?|s)", text.replace(" ", ""))
    unit = {"epoch": "epochs", "clock": "clocks"}.get(found[2], found[2]) if found else ""
    if found is None or not float(found[1]) > 0 or (unit != "s" and "." in found[1]):
        raise ConfigError(f"--stop-after: expected 10epochs, 5000clocks or 600s, got {text!r}")
    return StopAfter(float(found[1]), unit)


def stop_when(text: str) -> StopWhen:
    """Raises: ConfigError."""
    found = re.fullmatch(r"([^<>=\s]+)\s*(>=|<=|>|<)\s*(\S+)", text.strip())
    try:
        if found is not None:
            return StopWhen(found[1], found[2], float(found[3]))
    except ValueError:
        pass
    raise ConfigError(f"--stop-when: expected NAME>=NUMBER with >=, <=, > or <, such as 'val_acc>=0.97', got {text!r}")


def patience(text: str) -> Patience:
    """Raises: ConfigError."""
    name, _, reports = text.rpartition(":")
    if not name or not reports.isdecimal() or int(reports) < 1:
        raise ConfigError(f"--patience: expected NAME:REPORTS, such as val_loss:5, got {text!r}")
    return Patience(name, int(reports))


def progress(status: Mapping[str, Any], seconds: float) -> Progress:
    """Of a status as `ControlServer.status` gives it."""
    live = [worker for worker in status["workers"] if worker["state"] not in ("lost", "done")]
    epochs = [float(worker["logged"].get(EPOCH, 0.0)) for worker in live]
    return Progress(seconds, [int(worker["clock"]) for worker in live], epochs)


def reports(logs: Iterable[Logged], began: float) -> list[Report]:
    """Each logged value by itself. began: time.monotonic() at the start of the run."""
    return [
        Report(logged.at - began, logged.rank, logged.clock, name, value)
        for logged in logs
        for name, value in logged.values.items()
    ]
