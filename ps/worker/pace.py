"""How long the compute of each clock takes: measured, and made longer where the run emulates slower workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ps.stragglers import slowdowns

if TYPE_CHECKING:
    from ps.worker.runtime import Worker


class Pace:
    """The compute of one worker: from the end of a clock to its next gradient, without what it waited in between."""

    def __init__(self, worker: Worker) -> None:
        config = worker.config
        self._worker = worker
        self._compute_s = config.compute_s
        self._slowdowns = slowdowns(config.stragglers, config.seed or 0)
        self._done = -1  # the last clock whose compute is over
        self._began = self._worker.busy_s
        self._step = (self._worker.session.clock, self._worker.port.now())  # the clock at hand, and its begin
        self._ticked = False

    def computed(self) -> None:
        """The first gradient of this clock is there, or the clock ends without any: lets the rest of the time pass.

        A step takes `compute_s`, or as long as it took, times the slowdown of this worker and clock.
        """
        clock = self._worker.session.clock
        if clock == self._done:
            return
        self._done = clock
        took = max(self._worker.busy_s - self._began, 0.0)  # rounding can make it less
        factor = self._slowdowns.of(self._worker.rank, self._worker.size, clock)
        rest = (took if self._compute_s is None else self._compute_s) * factor - took
        if rest > 0:
            self._worker.port.spend(rest)
        self._worker.metrics.observe("compute", took + max(rest, 0.0))

    def begin(self) -> None:
        """The compute of the next clock begins now: after a tick, a registration, a barrier."""
        clock, began = self._step
        self._step = (self._worker.session.clock, self._worker.port.now())
        if self._step[0] > clock:
            if self._ticked:  # the first clock begins with a registration and the first values
                self._worker.metrics.observe("loop", self._step[1] - began)
            self._ticked = True
            if self._worker.metrics.traces:
                self._worker.metrics.span("step", began, self._step[1])
        self._began = self._worker.busy_s
