"""The checks of transports let a correct asynchronous transport pass and catch each kind of broken one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from threading import Condition, Event, Thread

import pytest

from ps.errors import OutboxFull
from ps.testing import peers, transports
from ps.testing.transports import CHECKS, check_transport
from ps.transport.base import Message, Transport, Unreachable
from ps.transport.memory import MemoryNetwork, MemoryTransport
from ps.types import PeerId

WIRE_BYTES = 4 << 20  # what is under way beyond the outbox, as in kernel buffers


class Delayed:
    """Takes now, copies and delivers later from a thread, as sockets do: the bound and a lost peer show late."""

    def __init__(self, wire: MemoryTransport, queued_bytes_max: int) -> None:
        self.address = wire.address
        self._wire = wire
        self._queued_bytes_max = queued_bytes_max
        self._outbox: deque[tuple[PeerId, Message]] = deque()
        self._queued_bytes: Counter[PeerId] = Counter()
        self._lost: set[PeerId] = set()  # to be reported on the next send
        self._changed = Condition()
        self._closed = Event()
        self._thread = Thread(target=self._deliver)
        self._thread.start()

    def send_nowait(self, to: PeerId, message: Message) -> None:
        with self._changed:
            if to in self._lost:
                self._lost.remove(to)
                raise Unreachable(f"{to}: lost")
            nbytes = self._queued_bytes[to] + message.nbytes
            if self._queued_bytes[to] and nbytes > self._queued_bytes_max:
                raise OutboxFull(to)
            self._queued_bytes[to] = nbytes
            self._outbox.append((to, message))
            self._changed.notify()

    def recv(self, timeout: float) -> tuple[PeerId, Message] | None:
        return self._wire.recv(timeout)

    def close(self) -> None:
        self._closed.set()
        self._wire.close()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _deliver(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._closed.is_set())
                if not self._outbox:
                    return
                to, message = self._outbox[0]
            self._deliver_one(to, Message(message.header, [buffer.copy() for buffer in message.buffers]))
            with self._changed:
                self._outbox.popleft()
                self._queued_bytes[to] -= message.nbytes
            message.release()

    def _deliver_one(self, to: PeerId, copied: Message) -> None:
        while not self._closed.is_set():
            try:
                return self._wire.send_nowait(to, copied)
            except OutboxFull:
                self._closed.wait(0.001)
            except Unreachable:
                self._lost.add(to)
                return None


def delayed_network() -> peers.OpenPeer:
    network = MemoryNetwork()

    def open_peer(address: PeerId, *, queued_bytes_max: int) -> Transport:
        return Delayed(network.open(address, queued_bytes_max=WIRE_BYTES), queued_bytes_max)

    return open_peer


@pytest.mark.parametrize("check", CHECKS)
def test_a_transport_that_delivers_later_passes(check: str) -> None:
    CHECKS[check](delayed_network)


class Drops(MemoryTransport):
    """Loses the fifth message of each sender."""

    def send_nowait(self, to: PeerId, message: Message) -> None:
        self.sent = getattr(self, "sent", 0) + 1
        if self.sent != 5:
            super().send_nowait(to, message)


class Repeats(MemoryTransport):
    """Sends the last of 500 messages twice."""

    def send_nowait(self, to: PeerId, message: Message) -> None:
        super().send_nowait(to, message)
        if peers.number_of(message) == 499:
            super().send_nowait(to, message)


class Reorders(MemoryTransport):
    """Gives the newest message first."""

    def recv(self, timeout: float) -> tuple[PeerId, Message] | None:
        self._inbox.reverse()
        return super().recv(timeout)


class Corrupts(MemoryTransport):
    """Loses empty buffers."""

    def send_nowait(self, to: PeerId, message: Message) -> None:
        buffers = [buffer for buffer in message.buffers if buffer.size]
        super().send_nowait(to, Message(message.header, buffers, message.on_release))


class Unbounded(MemoryTransport):
    def _take(self, sender: PeerId, message: Message, queued_bytes_max: int) -> None:
        super()._take(sender, message, 1 << 60)


class KeepsRefused(MemoryTransport):
    """Releases a message that it refused."""

    def send_nowait(self, to: PeerId, message: Message) -> None:
        try:
            super().send_nowait(to, message)
        except (OutboxFull, Unreachable):
            message.release()
            raise


class NeverOversize(MemoryTransport):
    def _take(self, sender: PeerId, message: Message, queued_bytes_max: int) -> None:
        if message.nbytes > queued_bytes_max:
            raise OutboxFull(self.address)
        super()._take(sender, message, queued_bytes_max)


class ReleasesTwice(MemoryTransport):
    def send_nowait(self, to: PeerId, message: Message) -> None:
        def release_twice(done: Callable[[], None] | None = message.on_release) -> None:
            for _ in range(2):
                if done is not None:
                    done()

        super().send_nowait(to, Message(message.header, message.buffers, release_twice))


class LeaksOnClose(MemoryTransport):
    """Forgets what is queued instead of releasing it."""

    def close(self) -> None:
        self._inbox.clear()
        super().close()


class SleepsThroughClose(MemoryTransport):
    """A waiting `recv` sees the close only when its time is over."""

    def recv(self, timeout: float) -> tuple[PeerId, Message] | None:
        arrived = super().recv(timeout)
        if arrived is None and self._closed:
            Event().wait(min(timeout, 4 * peers.DEADLINE_S))
        return arrived


class Silent(MemoryTransport):
    """Takes messages for peers that are gone."""

    def send_nowait(self, to: PeerId, message: Message) -> None:
        try:
            super().send_nowait(to, message)
        except Unreachable:
            message.release()


class Anonymous(MemoryTransport):
    """Does not say who is unreachable."""

    def send_nowait(self, to: PeerId, message: Message) -> None:
        try:
            super().send_nowait(to, message)
        except Unreachable:
            raise Unreachable("somebody") from None


CAUGHT_BY = {
    Drops: "order_of_several_senders",
    Repeats: "order_of_several_senders",
    Reorders: "slow_reader",
    Corrupts: "empty_buffers",
    Unbounded: "outbox_full_leaves_the_message",
    KeepsRefused: "outbox_full_leaves_the_message",
    NeverOversize: "oversize_message",
    ReleasesTwice: "released_once_after_reading",
    LeaksOnClose: "released_once_after_close",
    SleepsThroughClose: "close_wakes_recv",
    Silent: "closed_peer_is_unreachable",
    Anonymous: "absent_peer_is_unreachable",
}


@pytest.mark.parametrize("broken", CAUGHT_BY, ids=lambda broken: broken.__name__)
def test_a_broken_transport_is_caught(broken: type[MemoryTransport], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (peers, transports):
        monkeypatch.setattr(module, "DEADLINE_S", 0.1)
    monkeypatch.setattr("ps.transport.memory.MemoryTransport", broken)
    with pytest.raises((AssertionError, TimeoutError)):
        CHECKS[CAUGHT_BY[broken]](lambda: MemoryNetwork().open)


def test_check_transport_runs_every_check_in_a_network_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()
    seen: list[int] = []

    def look(open_network: Callable[[], int]) -> None:
        seen.append(open_network())

    monkeypatch.setattr(transports, "CHECKS", {"first": look, "second": look})
    check_transport(numbers.__next__)  # type: ignore[arg-type]
    assert seen == [0, 1]
