"""Follows a controller: what workers log goes to the sinks, the stop rules and the view; nothing of it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ps.control.logs import Logged
from ps.launch.ends import Outcome
from ps.launch.figures import Figures
from ps.launch.journal import Journal
from ps.launch.rules import EPOCH, Progress, Report, Rule, StopAfter, progress, reports
from ps.launch.view import View

TICK_S = 0.2  # between looks at the controller: metrics, rules, view
BILL_BYTES_MIN = 1 << 20  # of all values
EPOCH_HINT_CLOCKS = 10  # without a logged epoch so far, --stop-after 10epochs is told to be waiting for one


class Watched(Protocol):
    """What is needed of `ps.control.service.ControlServer`."""

    def status(self) -> dict[str, Any]: ...
    def take_logs(self) -> list[Logged]: ...
    def stop(self, reason: str, failed: bool = False) -> None: ...


@dataclass
class Watch:
    """The eyes of one run. For one thread."""

    control: Watched
    rules: list[Rule]
    view: View
    journal: Journal
    figures: Figures = field(default_factory=Figures)
    now: Callable[[], float] = time.monotonic  # seconds, those of logs; virtual in the simulator
    began: float = field(init=False)
    status: dict[str, Any] = field(default_factory=dict)  # as of the last look
    latest: dict[int, dict[str, float]] = field(default_factory=dict)  # rank -> its latest value of each name
    hinted: bool = False
    billed: str = ""  # the memory bill that was told last

    def __post_init__(self) -> None:
        self.began = self.now()

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return self.now() - self.began

    @property
    def outcome(self) -> Outcome | None:
        """Why the job has ended, as of the last look: before the controller has said goodbye to everybody."""
        return (self.status["stopped"], self.status["failed"]) if self.status.get("stopped") is not None else None

    @property
    def workers(self) -> list[dict[str, Any]]:
        """As of the last look."""
        workers: list[dict[str, Any]] = self.status["workers"]
        return workers

    @property
    def clocks(self) -> list[int]:
        """Of the workers, as of the last look."""
        return [worker["clock"] for worker in self.workers]

    def look(self) -> Outcome | None:
        """Takes what is new, and stops the job when a rule says so. Returns: `outcome`."""
        # First the status: what a worker has logged before it was done is then among the logs.
        self.status, logs = self.control.status(), self.control.take_logs()
        found = reports(logs, self.began)
        for report in found:
            self.latest.setdefault(report.rank, {})[report.name] = report.value
        for worker in self.workers:
            worker["logged"] = self.latest.get(worker["rank"], {})
        self._tell_bill()
        here = progress(self.status, self.seconds)
        self.journal.logged(found + self.figures.reports(self.status, here.seconds))
        self._obey(here, found)
        shares = [rule.share(here) for rule in self.rules if isinstance(rule, StopAfter)]
        self.view.update(self.status, here.seconds, shares[0] if shares else None)
        return self.outcome

    def end(self, **outcome: Any) -> None:
        """After the last look: figures as they ended, and how the run did."""
        self.journal.logged(self.figures.reports(self.status, self.seconds, now=True))
        began_at = self.status["began_at"]
        began = None if began_at is None else round(began_at - self.began, 3)
        self.journal.end(seconds=round(self.seconds, 3), began=began, clocks=self.clocks, **outcome)

    def _tell_bill(self) -> None:
        """Whenever parameters were registered, but for those that nobody would count."""
        bill = self.status.get("memory")
        if bill is not None and bill["values"] >= BILL_BYTES_MIN and bill["words"] != self.billed:
            self.billed = bill["words"]
            self.view.news(f"memory: {self.billed}")

    def _obey(self, here: Progress, found: list[Report]) -> None:
        for rule in self.rules:
            reason = rule.reason(here, found)
            self._hint_at_epochs(rule, min(here.clocks, default=0))
            if reason is not None and self.outcome is None:
                self.view.news(reason)
                self.control.stop(reason)
                self.status["stopped"], self.status["failed"] = reason, False

    def _hint_at_epochs(self, rule: Rule, clocks: int) -> None:
        """Nobody can know at the start whether a script logs it."""
        counts = isinstance(rule, StopAfter) and rule.unit == "epochs"
        if counts and clocks >= EPOCH_HINT_CLOCKS and not self.hinted:
            self.hinted = True
            if not any(EPOCH in values for values in self.latest.values()):
                self.view.note("--stop-after counts what scripts log as client.log(epoch=finished); none has so far")
