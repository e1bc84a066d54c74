"""What this worker has of one leased data set: its question to the controller, its answer, what it is through with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ps.consistency import OnArrival
from ps.messages import RATE_MAX, Lease, Leased, Withheld
from ps.spans import Span, Spans, united, without
from ps.types import CONTROLLER, Clock, WorkerId
from ps.worker.reports import REPORT_S

if TYPE_CHECKING:
    from ps.worker.runtime import Worker

FAR = 1 << 40  # clocks and versions that no run reaches


class Leases:
    """One data set of `examples` examples and `epochs` epochs; positions run over all epochs.

    idle_clock(timeout_s): closes a clock of this worker without a push, as soon as the model lets it.
    """

    def __init__(
        self, worker: Worker, idle_clock: Callable[[float], None], data: str, examples: int, epochs: int, size: int
    ) -> None:
        self._worker, self._close_idle = worker, idle_clock
        self.data, self.examples, self.epochs, self.size = data, examples, epochs, size
        self.until = 0  # all is done: the clock at which every worker ends
        self.pace = self.share = 1.0  # this worker's rate over the mean of all, and over the largest
        self.floor = 0  # everything below is done, by whomever
        self.done: Spans = []  # by this worker, above the floor
        self._news: Spans = []  # done, and perhaps the controller does not know
        self._told: Spans = []  # the news that the open question carries at least
        self._closing: deque[tuple[Span, Clock]] = deque()  # computed; done once the servers have all of this clock
        self._number = 0
        self._rate = 0.0  # positions per second; 0: not known yet
        self._observed = [0.0, 0.0]  # positions and seconds since the last question
        self._is_open = False  # the question waits for its answer
        self._answer: Leased | None = None
        self._withheld: Withheld | None = None
        self._report_at = 0.0  # not before, but for questions

    # ---- positions --------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """All positions are done."""
        return self._answer is not None and self._answer.start == self._answer.stop

    def begin(self, timeout_s: float) -> None:
        """Closes the clocks that an earlier incarnation has begun, without a push: it computed other positions."""
        while self._worker.session.repeats:
            self._idle_clock(timeout_s)

    def ask(self) -> None:
        """Asks for the next positions; the answer comes while this worker computes."""
        if not self._is_open and self._answer is None:
            self._settle()
            positions, seconds = self._observed
            if positions and seconds > 0:
                self._rate, self._observed = min(positions / seconds, RATE_MAX), [0.0, 0.0]
            self._number += 1
            self._is_open, self._withheld, self._told = True, None, self._news
            self._post(self.size)

    def take(self, timeout_s: float) -> Span | None:
        """The next positions; none: others hold what is left, all is done, or the job ends. Raises: DeadlineError."""
        self.ask()
        worker = self._worker
        if self._withheld is not None and self._withheld.asked != worker.session.clock:  # it was said of an earlier one
            self._withheld = None
            self._post(self.size)
        worker.wait(
            lambda: not self._is_open or self._withheld is not None or worker.stopped is not None,
            timeout_s,
            lambda: f"data set {self.data!r}: the controller has not answered",
            lambda: self._post(self.size),
        )
        if self._answer is None or self.is_over:
            return None
        answer, self._answer = self._answer, None
        return answer.start, answer.stop

    def computed(self, span: Span, clock: int) -> None:
        """The loop has been through these positions in this clock; they are done once the servers have its pushes."""
        cadence = self._worker.session.model.cadence
        begin = clock - clock % cadence.stretch  # a round later every slice has been pushed
        self._closing.append((span, Clock(begin + cadence.push_every - 1)))
        if self._worker.port.now() >= self._report_at:
            self.report()

    def observe(self, positions: int, seconds: float) -> None:
        """So many took this worker so long; time in which it waited for others is not in it."""
        self._observed[0] += positions
        self._observed[1] += seconds

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as plain numbers: what the servers have of all that was computed."""
        self._settle()
        return {"floor": self.floor, "done": [list(span) for span in self.done]}

    def restore(self, floor: int, done: Spans) -> None:
        """Positions that were done when a checkpoint was made. The controller hears of them at once."""
        self._add(united([(0, floor), *done]))
        self.report()

    def report(self) -> None:
        """Tells the controller what is done."""
        self._settle()
        if self._news:
            self._post(0)

    def hear(self, body: Leased | Withheld) -> None:
        """An answer of the controller; one to an earlier question, or a second copy, is passed over."""
        if not self._is_open or body.id != self._number:
            return
        if isinstance(body, Withheld):
            if body.asked == self._worker.session.clock:
                self._withheld = body
            return
        self._is_open, self._answer = False, body
        self.pace, self.share, self.until = body.pace, body.share, body.until
        self._news = without(self._news, self._told)
        self.floor = max(self.floor, body.floor)
        self.done = without(self.done, [(0, self.floor)])

    # ---- while there is nothing to compute --------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> None:
        """Waits for positions, or for what is said of them, and holds nobody up: where others wait for this worker's
        clock, it closes one without a push.

        Raises: DeadlineError, naming who holds the rest when that one has not moved for so long.
        """
        worker = self._worker
        round_is_open = bool(self._closing) and self._closing[-1][1] >= worker.session.clock
        if round_is_open or self._others_wait:
            self._idle_clock(timeout_s)
            self._settle()
            self._withheld = None
            self._post(self.size)  # one clock for each answer: so it is known how far this worker can be
            return
        worker.wait(self._settle, timeout_s, worker.missing.verdicts)
        self._post(self.size, waits=True)
        seen = self._place
        worker.wait(
            lambda: not self._is_open or worker.stopped is not None or self._place != seen,
            timeout_s,
            self._who_holds,
            lambda: self._post(self.size, waits=True),
        )
        if self._answer is not None and not self.is_over:
            self._idle_clock(timeout_s)  # values in hand are as old as the wait was long

    def finish(self, timeout_s: float) -> None:
        """All is done: goes to the clock at which every worker ends, so that nobody waits for a clock of another's."""
        while self._others_wait and self._worker.session.clock < self.until and self._worker.stopped is None:
            self._idle_clock(timeout_s)

    def _idle_clock(self, timeout_s: float) -> None:
        """One clock, not all up to the next exchange: it is counted how far this worker can be."""
        self._worker.session.steps = self._worker.session.model.cadence.stretch
        self._close_idle(timeout_s)

    @property
    def _others_wait(self) -> bool:
        """Somebody's pull, or a round, may depend on this worker's clock."""
        model = self._worker.session.model
        if self._worker.session.by_version:
            return False  # the controller tells the shards that it rests
        far, zero = np.array([FAR]), np.zeros(1, np.int64)
        return not (isinstance(model.commit(1), OnArrival) and model.gate(far, zero, far, False).all())

    @property
    def _place(self) -> tuple[int, int]:
        """Where who holds the rest was when the controller last said so."""
        return (-1, -1) if self._withheld is None else (int(self._withheld.worker), self._withheld.clock)

    def _who_holds(self) -> str:
        if self._withheld is None:
            return f"data set {self.data!r}: the controller has not answered"
        rank, clock = self._place
        who = f"worker {rank}, at clock {clock}, last heard {self._withheld.silent_s:.1f} s ago"
        return f"data set {self.data!r}: waits for {who}, which holds what is left"

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _settle(self) -> bool:
        """Takes what the servers have of all that was computed as done; True: they have all of it."""
        found = []
        while self._closing and self._worker.session.has_closed(self._closing[0][1]):
            found.append(self._closing.popleft()[0])
        self._add(united(found))
        return not self._closing

    def _add(self, done: Spans) -> None:
        self.done = united([*self.done, *done])
        self._news = united([*self._news, *done])

    def _post(self, size: int, waits: bool = False) -> None:
        worker = self._worker
        self._report_at = worker.port.now() + REPORT_S
        start_P, stop_P = np.array(self._news, np.int64).reshape(-1, 2).T
        mine = WorkerId(worker.rank), worker.incarnation, self.data
        numbers = self.examples, self.epochs, self._number, int(worker.session.clock), size
        worker.post(CONTROLLER, Lease(*mine, *numbers, waits=waits, rate=self._rate, start_P=start_P, stop_P=stop_P))
