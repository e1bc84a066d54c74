"""Training scripts in virtual time: one thread each, of which only one runs, handing over at client calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ps.metrics import Metrics
from ps.transport.base import Message, Unreachable
from ps.types import CONTROLLER, PeerId

if TYPE_CHECKING:
    from ps.sim.loop import Simulator


class Killed(BaseException):
    """Raised inside a script whose process was killed; nothing it sends from then on leaves."""


class Script:
    """One script's thread and its port. `recv` and `spend` hand over to the simulator."""

    def __init__(self, simulator: Simulator, address: PeerId, body: Callable[[Script], Any]) -> None:
        self.simulator, self.address = simulator, address
        self.inbox: deque[tuple[PeerId, Message]] = deque()
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_over = False
        self.is_killed = False
        self.is_closed = False
        self.waits_for_mail = False
        self.waking = 0  # only the wake-up of this number counts
        wires = simulator.wires
        self.releases_when_sent = wires is not None  # a receiver lets go of it later still, which does no harm
        self._costs = wires.network if wires is not None and address.startswith("worker:") else None
        self._body = body
        self._go = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=f"sim {address}", daemon=True)

    # ---- the port, called in the script's thread --------------------------------------------------------------------

    def now(self) -> float:
        return self.simulator.now

    def send_nowait(self, to: PeerId, message: Message) -> None:
        if self.is_killed or self.is_closed:
            raise Unreachable(f"{self.address}: this peer is closed")
        if self._costs is not None and to != CONTROLLER:
            self._busy(self._costs.encode_s(sum(buffer.nbytes for buffer in message.buffers)))
        self.simulator.send(self.address, to, message)

    def recv(self, until: float) -> tuple[PeerId, Message] | None:
        if not self.inbox and until > self.simulator.now:
            self._hand_over(until, mail=True)
        if self.is_killed:
            raise Killed
        if not self.inbox:
            return None
        sender, message = self.inbox.popleft()
        if self._costs is not None and sender != CONTROLLER:
            self._busy(self._costs.decode_s(sum(buffer.nbytes for buffer in message.buffers)))
        return sender, message

    def is_known_as(self, address: PeerId) -> None:
        """It has its address from the start."""

    def measured(self, metrics: Metrics) -> None:
        """Whoever wants it has the object."""

    def spend(self, seconds: float) -> None:
        self._hand_over(self.simulator.now + seconds, mail=False)
        if self.is_killed:
            raise Killed

    def _busy(self, seconds: float) -> None:
        if seconds:
            self.spend(seconds)

    def close(self) -> None:
        self.is_closed = True
        self.drain()

    # ---- called by the simulator ------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self.simulator.turn.acquire()

    def resume(self) -> None:
        """Lets the script run until it hands over again or ends."""
        self.waking += 1
        self._go.release()
        self.simulator.turn.acquire()

    def kill(self) -> None:
        """Ends the script at once, wherever it waits."""
        if not self.is_over:
            self.is_killed = True
            self.drain()
            if self._thread.ident is not None:
                self.resume()

    def join(self, timeout: float) -> None:
        """Waits until its thread has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def drain(self) -> None:
        """Lets go of messages that nobody will read."""
        while self.inbox:
            self.inbox.popleft()[1].release()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _hand_over(self, until: float, mail: bool) -> None:
        self.waits_for_mail = mail
        if until != float("inf"):
            number = self.waking
            self.simulator.at(until, lambda: self._wake(number))
        self.simulator.turn.release()
        self._go.acquire()
        self.waits_for_mail = False

    def _wake(self, number: int) -> None:
        if number == self.waking and not self.is_over:
            self.resume()

    def _run(self) -> None:
        try:
            self.result = self._body(self)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.is_over = self.is_closed = True
        self.drain()
        self.simulator.turn.release()
