"""What a training loop holds: register, pull, push, tick, log. One client per worker, used from one thread."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Callable
from typing import Any, SupportsFloat

from ps.errors import ConfigError
from ps.messages import Barrier, Done, EpochDone, SetLr, Skipped, Stop
from ps.types import Clock, WorkerId
from ps.worker.checks import checked_number
from ps.worker.leases import Leases
from ps.worker.runtime import Worker
from ps.worker.states import StateCalls
from ps.worker.training import TrainingCalls

REASON_BYTES_MAX = 8000


class Client(TrainingCalls, StateCalls):
    """A worker's face. Every call takes `timeout=` seconds and names who is missing when it runs out."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.idle_clock: Callable[[float], None] = self._idle_clock  # given seconds; a wrapper that pulls has its own
        self._diverged: set[str] = set()  # metrics whose last value was not finite
        self.on_close: Callable[[], None] = lambda: None  # ends an embedded cluster

    # ---- the run ----------------------------------------------------------------------------------------------------

    def log(self, **values: SupportsFloat) -> None:
        """Metrics of this clock, for the live view, stop rules, sweeps.

        Non-finite values are left out; the measure `nonfinite_log` says of which metrics the last one was.
        """
        self._open("log")
        numbers = {name: checked_number(f"log: {name}", value) for name, value in values.items()}
        kept = {name: value for name, value in numbers.items() if math.isfinite(value)}
        for name in numbers.keys() - kept.keys() - self._diverged:
            self._worker.metrics.gauge("nonfinite_log", 1, metric=name)
        for name in kept.keys() & self._diverged:
            self._worker.metrics.gauge("nonfinite_log", 0, metric=name)
        self._diverged = (self._diverged | numbers.keys()) - kept.keys()
        self._worker.reports.log(tuple(kept), tuple(kept.values()))

    def barrier(self, *, timeout: float | None = None) -> None:
        """Settles this worker's pushes (gathered counts) and waits for all live workers.

        A restarted worker goes through those before its first clock, where its earlier incarnation has been. Raises:
        DeadlineError naming the worker that is behind; called again, it goes on waiting at the same barrier.
        """
        self._open("barrier")
        seconds = self._timeout(timeout)
        worker = self._worker
        worker.wait(lambda: worker.session.is_settled, seconds, lambda: "barrier: " + worker.missing.verdicts())
        if worker.passed and not worker.has_ticked:
            worker.passed -= 1
            return
        number, worker.behind = worker.barriers + 1, None

        def ask() -> None:
            self._post(Barrier(WorkerId(self.rank), worker.incarnation, number, worker.has_ticked))

        ask()
        worker.wait(lambda: worker.barrier_opened >= number, seconds, lambda: worker.missing.at_barrier(number), ask)
        worker.barriers = number
        worker.pace.begin()

    def stop(self, reason: str) -> None:
        """Ends the job for everybody; `should_stop` becomes true everywhere."""
        self._open("stop")
        text = f"worker {self.rank}: {reason}".encode(errors="replace")[:REASON_BYTES_MAX]
        self._post(Stop(text.decode(errors="ignore"), False))

    def set_lr(self, lr: float, at_clock: int | None = None, *, timeout: float | None = None) -> None:
        """From `at_clock` (default: this worker's clock) on the learning rate is `lr`; returns when all servers know.

        Clocks that are committed already keep their rate. Raises: ConfigError; DeadlineError.
        """
        self._open("set_lr")
        seconds, worker = self._timeout(timeout), self._worker
        rate, clock = checked_number("set_lr: lr", lr), self.clock if at_clock is None else at_clock
        if not (math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"set_lr: lr: expected a finite number >= 0, got {rate!r}")
        if clock < 0:
            raise ConfigError(f"set_lr: at_clock: expected a clock >= 0, got {clock!r}")
        worker.lr_asked += 1
        number = worker.lr_asked
        self._post(SetLr(WorkerId(self.rank), worker.incarnation, number, rate, Clock(clock)))
        worker.wait(lambda: worker.lr_set >= number, seconds, lambda: "set_lr: some server has not confirmed it")

    def take_steps(self, share: float) -> None:
        """From now on this worker computes floor(share * H) clocks of a round, at least one, and leaves the rest out.

        With fragments: of the H / F clocks between two exchanges.

        share: its speed over that of the fastest, so that a round takes all equally long: dynamic local updates (Liu
        et al., arXiv 2401.09135). Raises: ConfigError unless workers step, or where it is not in (0, 1].
        """
        cadence = self.config.model().cadence
        if cadence.carries != "delta":
            raise ConfigError(
                f"take_steps: expected a model whose workers step, as local, got {self.config.consistency}"
            )
        if not 0 < share <= 1:
            raise ConfigError(f"take_steps: share: expected above 0 and at most 1, got {share}")
        self._worker.session.steps = max(int(share * cadence.stretch), 1)

    def spend(self, seconds: float) -> None:
        """Lets compute time pass that is declared, not done: a real sleep, or virtual time in a seeded cluster."""
        self._worker.port.spend(seconds)

    # ---- data epochs ------------------------------------------------------------------------------------------------

    def epoch_done(self, epoch: int) -> None:
        """This worker has been through its part of the data epoch."""
        self._post(EpochDone(WorkerId(self.rank), self._worker.incarnation, epoch))

    def epoch_ended(self, epoch: int) -> bool:
        """Enough workers have finished this epoch (run option epoch_share): go on to the next."""
        self._worker.poll()
        return self._worker.epoch_ended >= epoch

    def epoch_skipped(self, epoch: int, examples: int) -> None:
        """Counts the examples that were left out because the epoch had ended."""
        self._post(Skipped(WorkerId(self.rank), self._worker.incarnation, epoch, examples))

    def leases(self, data: str, examples: int, epochs: int, size: int) -> Leases:
        """This worker's share in a data set of this name, lent by the controller `size` positions at a time: what
        `ps.data.leased` is made of."""
        self._open("leases")
        leases = Leases(self._worker, lambda timeout_s: self.idle_clock(timeout_s), data, examples, epochs, size)
        self.register_state(
            f"ps.data.{data}",
            leases.state,
            lambda state: leases.restore(state["floor"], [(start, stop) for start, stop in state["done"]]),
        )
        self._worker.leases[data] = leases
        return leases

    def _idle_clock(self, timeout_s: float) -> None:
        """Closes a clock without a push, at the pace of the others: a pull waits as the model says."""
        self._registered("leases")
        self.pull([min(self._worker.keyspace.parameters, key=lambda p: p.size).name], timeout=timeout_s)
        self.tick(timeout=timeout_s)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close(self, error: str = "", *, timeout: float | None = None) -> None:
        """Leaves: waits until the servers have this worker's pushes, leaves the clock minimum, says good-bye.

        error: why `train` failed; then nothing is waited for. Raises: StoppedError (the job has failed), DeadlineError.
        """
        if self._closed:
            return
        self._closed = True
        worker = self._worker
        if worker.pid != os.getpid():
            return  # it is the parent's
        try:
            if not error:
                seconds = self._timeout(timeout)
                self._finish_pull()
                worker.finish(seconds)
                worker.wait(lambda: worker.session.is_settled, seconds, lambda: "close: " + worker.missing.verdicts())
                for leases in worker.leases.values():
                    leases.report()
                worker.perform(worker.session.leave(worker.port.now()))
                worker.wait(lambda: worker.session.has_left, seconds, lambda: "close: a server has not let go")
        except BaseException as failure:  # an interrupt, too: it has not left
            error = f"{type(failure).__name__}: {failure}"  # the others must not wait for it
            raise
        finally:
            if self._pending is not None:
                self._pending.end()
            text = error.encode(errors="replace")[-REASON_BYTES_MAX:].decode(errors="ignore")
            worker.reports.report(now=True)
            self._post(Done(WorkerId(self.rank), worker.incarnation, text))
            worker.port.close()
            self.on_close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close("" if error is None else "".join(traceback.format_exception(error)))
