"""A transport over links of declared speed: messages are held until their bytes would have been there.

Messages to one host's peer wait in a lane of their own, in order. Lanes take turns: each reserves the cards for what
they carry in `TURN_S`, and again once that is through. So connections that share a card share it about equally, as TCP
has it, a small message waits for one turn of each other lane and not for their messages, and a card is never taken for
bytes that still wait behind others of the same lane. A message is passed on when its last byte is through and the delay
has passed. Then the real transport carries it, in the time that it takes.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from ps.errors import OutboxFull
from ps.metrics import Metrics
from ps.transport.base import Message, Transport, Unreachable
from ps.transport.cards import Cards
from ps.transport.outbox import Outbox
from ps.transport.packing import sent_bytes
from ps.types import PeerId

TURN_S = 0.005  # of the slower card: what a lane takes at once
UNSENT_MAX = 1000  # messages to one peer that are held, as libzmq has it
RETRY_S = 0.005  # what a slow reader had no room for is tried again so often
FLUSH_S = 1.0  # closing waits so long for what is still held


@dataclass(eq=False, slots=True)
class Lane:
    """What is on its way to one peer."""

    to: PeerId
    host: str
    turn_bytes: float
    delay_s: float
    waiting: deque[tuple[Message, float]] = field(default_factory=deque)  # with bytes that have not had their turn
    is_idle: bool = True
    held: int = 0  # messages
    held_bytes: int = 0


class Turns:
    """Decides when what is there; the caller passes the time, and looks again at `next`."""

    def __init__(self, cards: Cards, host: str) -> None:
        self._cards, self._host = cards, host
        self._events: list[tuple[float, int, Lane, Message | None]] = []  # None: a turn of the lane
        self._order = 0

    @property
    def next(self) -> float:
        """When `take` may have something to do; infinity: when something was put."""
        return self._events[0][0] if self._events else float("inf")

    def lane(self, to: PeerId, host: str) -> Lane:
        """A new one."""
        turn_bytes = TURN_S * self._cards.rate(self._host, host)
        return Lane(to, host, turn_bytes, self._cards.delay_s(self._host, host))

    def put(self, lane: Lane, message: Message, now: float) -> None:
        """A message behind all others of its lane."""
        lane.waiting.append((message, sent_bytes(message)))
        if lane.is_idle:
            lane.is_idle = False
            self._at(now, lane, None)

    def take(self, now: float) -> list[tuple[PeerId, Message]]:
        """Those that are there now, in order."""
        there = []
        while self._events and self._events[0][0] <= now:
            due, _, lane, message = heapq.heappop(self._events)
            if message is None:
                self._turn(lane, due)
            else:
                there.append((lane.to, message))
        return there

    def drop(self) -> None:
        """Releases all that is not there."""
        events, self._events = self._events, []
        for _, _, lane, message in events:
            for one in [message] if message is not None else [waiting for waiting, _ in lane.waiting]:
                one.release()

    def _turn(self, lane: Lane, ready: float) -> None:
        """ready: when the last turn was through, or the message put: a late look costs the lane nothing."""
        if not lane.waiting:
            lane.is_idle = True
            return
        message, left = lane.waiting.popleft()
        nbytes = min(left, lane.turn_bytes)
        through = self._cards.reserve(self._host, lane.host, nbytes, ready)
        if nbytes < left:
            lane.waiting.appendleft((message, left - nbytes))
        else:
            self._at(through + lane.delay_s, lane, message)
        self._at(through, lane, None)

    def _at(self, due: float, lane: Lane, message: Message | None) -> None:
        self._order += 1
        heapq.heappush(self._events, (due, self._order, lane, message))


class ShapedTransport:
    """One peer on `host`. A thread of its own holds what goes to peers on other hosts, and passes it on to `inner`.

    queued_bytes_max: that are held for each peer; with `UNSENT_MAX`, the bounds of a transport over a slow link.
    """

    def __init__(self, inner: Transport, cards: Cards, host: str, queued_bytes_max: int) -> None:
        self._inner, self._cards, self._host = inner, cards, host
        self._queued_bytes_max = queued_bytes_max
        self._turns = Turns(cards, host)
        self._lanes: dict[PeerId, Lane] = {}
        self._gone: dict[PeerId, Unreachable] = {}  # what became of the last message; the next sender is told
        self._outbox = Outbox(self._pass_on, Metrics(), b"")  # what the reader has no room for; its counts are nobody's
        self._changed = threading.Condition()  # guards all but the outbox, which is the thread's
        self._ends_at = float("inf")
        self._broken: Exception | None = None  # what has ended the thread: every sender is told
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> PeerId:
        return self._inner.address

    def send_nowait(self, to: PeerId, message: Message) -> None:
        """See `Transport`. That a held message has found nobody is raised by a later send."""
        host = self._cards.host_of(to)
        if host is None or host == self._host:
            self._inner.send_nowait(to, message)
            return
        nbytes = message.nbytes
        with self._changed:
            if self._ends_at < float("inf"):
                raise Unreachable(f"{self.address}: expected to be open when it sends, got closed; open it again")
            if self._broken is not None:
                raise self._broken
            if (gone := self._gone.pop(to, None)) is not None:
                raise gone
            lane = self._lanes.get(to)
            if lane is None:
                lane = self._lanes[to] = self._turns.lane(to, host)
            if lane.held >= UNSENT_MAX or (lane.held and lane.held_bytes + nbytes > self._queued_bytes_max):
                raise OutboxFull(
                    f"{to}: expected at most {UNSENT_MAX} messages and {self._queued_bytes_max} bytes held for its "
                    f"link, got {lane.held} of {lane.held_bytes} and one of {nbytes}; retry once some have left"
                )
            lane.held += 1
            lane.held_bytes += nbytes
            before = self._turns.next
            self._turns.put(lane, message, time.monotonic())
            if self._turns.next < before:
                self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._carry, name="ps links", daemon=True)
                self._thread.start()

    def recv(self, timeout: float) -> tuple[PeerId, Message] | None:
        """See `Transport`."""
        return self._inner.recv(timeout)

    def close(self) -> None:
        """See `Transport`. Waits at most FLUSH_S for what is held, and for `inner`."""
        with self._changed:
            if self._ends_at < float("inf"):
                return
            self._ends_at = time.monotonic() + FLUSH_S
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(2 * FLUSH_S)
        self._inner.close()
        self._outbox.retry()  # to a closed transport: releases them
        self._turns.drop()
        self._cards.close()

    # ---- the thread -------------------------------------------------------------------------------------------------

    def _carry(self) -> None:
        try:
            while (there := self._wait()) is not None:
                self._outbox.retry()
                for to, message in there:
                    self._outbox.hand_over(to, message)
        except Exception as error:  # of `inner`, which would have been the sender's
            with self._changed:
                self._broken = error

    def _wait(self) -> list[tuple[PeerId, Message]] | None:
        """What is there now; nothing when the outbox is to be tried again; None when it is over."""
        with self._changed:
            while (now := time.monotonic()) < self._ends_at:
                if there := self._turns.take(now):
                    return there
                if self._ends_at < float("inf") and self._turns.next == float("inf") and not self._outbox:
                    return None
                until = min(self._turns.next, self._ends_at)
                if self._outbox:
                    self._changed.wait(min(until - now, RETRY_S))
                    return []
                self._changed.wait(until - now if until < float("inf") else None)
        return None

    def _pass_on(self, to: PeerId, message: Message) -> None:
        nbytes = message.nbytes
        gone: Unreachable | None = None
        try:
            self._inner.send_nowait(to, message)
        except Unreachable as error:
            gone = error
        with self._changed:
            lane = self._lanes[to]
            lane.held -= 1
            lane.held_bytes -= nbytes
            if gone is None:
                self._gone.pop(to, None)
            else:
                self._gone[to] = gone
        if gone is not None:
            raise gone
