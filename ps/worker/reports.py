"""What the controller hears of a worker: progress, logged values, or at least that it lives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ps.messages import Log, Progress
from ps.types import CONTROLLER, Clock, WorkerId

if TYPE_CHECKING:
    from ps.worker.runtime import Worker

LEASE_BEATS = 4  # signs of life per lease, while waiting
REPORT_S = 0.1  # the controller hears of progress, of logged values, and of what is done of a lease, so often
MEASURED_S = 2.0  # and so often of what this worker has measured, unless it is said otherwise


class Reports:
    """Reports of one worker, at most every REPORT_S."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.measured_s = MEASURED_S
        self._logs: list[tuple[float, Log]] = []  # not yet reported, and when it was logged
        self._reported = Clock(0)  # what the controller knows
        self._report_at = 0.0  # not before
        self._measured_at = 0.0  # not before
        self._beat_s = self._beat_at = float("inf")

    def begin(self, lease_s: float) -> None:
        """The worker has a lease from now on."""
        self._beat_s = lease_s / LEASE_BEATS
        self._beat_at = self._worker.port.now() + self._beat_s

    def log(self, names: tuple[str, ...], values: tuple[float, ...]) -> None:
        """Takes note of what the script logs; it travels with the next report."""
        worker = self._worker
        log = Log(WorkerId(worker.rank), worker.incarnation, worker.session.clock, 0.0, names, values)
        self._logs.append((worker.port.now(), log))
        self.report()

    def report(self, now: bool = False) -> None:
        """Tells the controller what is new, when it is time. Without news it hears a sign of life: who waits for others
        is not lost, its lease runs on."""
        worker, time = self._worker, self._worker.port.now()
        if now or time >= self.next():
            self._report_at, self._beat_at = time + REPORT_S, time + self._beat_s
            self._reported = worker.session.clock
            for at, log in self._logs:
                worker.post(CONTROLLER, replace(log, ago=time - at))
            self._logs.clear()
            worker.post(CONTROLLER, Progress(WorkerId(worker.rank), worker.incarnation, self._reported))
            if now or time >= self._measured_at:
                self._measured_at = time + self.measured_s
                worker.metrics.gauge("lr", worker.session.lr)
                worker.port.measured(worker.metrics)

    def next(self) -> float:
        """When the next report is due: at once after the first clock, from which the seconds of a run count."""
        clock = self._worker.session.clock if self._worker.has_session else Clock(0)
        if clock > self._reported == 0:
            return 0.0
        news = bool(self._logs) or clock > self._reported
        return min(self._beat_at, self._report_at) if news else self._beat_at
