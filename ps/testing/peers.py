"""What the checks of transports share: peers of a fresh network, numbered messages, waits with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Condition, Event
from typing import Protocol

import numpy as np

from ps.errors import OutboxFull
from ps.transport.base import Message, Transport, Unreachable
from ps.types import Array, PeerId

DEADLINE_S = 30.0  # for whatever must happen in the end
RETRY_S = 0.001  # between two tries of a send that was refused
SLACK_BYTES = 64 << 20  # what a transport may take beyond its bound: the buffers of both kernels, and more
BYTES_MAX = 256 << 20  # the bound of a pair where it should not matter
SERVER = PeerId("server:0")
WORKER = PeerId("worker:0")


class OpenPeer(Protocol):
    """Opens a peer of one network under `address`, free again once its peer is closed. `close` twice is allowed."""

    def __call__(self, address: PeerId, *, queued_bytes_max: int) -> Transport: ...


OpenNetwork = Callable[[], OpenPeer]  # a fresh network, where every address is free


@contextmanager
def opened(open_network: OpenNetwork, queued_bytes_max: int = BYTES_MAX) -> Iterator[Callable[[str], Transport]]:
    """Gives `open_peer` of a fresh network; closes all its peers at the end, the last opened first."""
    open_in_network = open_network()
    with ExitStack() as peers:

        def open_peer(address: str) -> Transport:
            peer = open_in_network(PeerId(address), queued_bytes_max=queued_bytes_max)
            peers.callback(peer.close)
            return peer

        yield open_peer


class Releases:
    """Makes messages numbered from 0, each with its payload, and counts how often each is released."""

    def __init__(self) -> None:
        self.times: list[int] = []  # by message number
        self._changed = Condition()

    def message(self) -> Message:
        number = len(self.times)
        self.times.append(0)
        return numbered(number, [payload(number)], lambda: self._count(number))

    def wait_for_one_each(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: all(self.times), DEADLINE_S)
            wrong = {number: times for number, times in enumerate(self.times) if times != 1}
        assert not wrong, f"expected each message to be released once, got {{number: times}} {wrong}"

    def _count(self, number: int) -> None:
        with self._changed:
            self.times[number] += 1
            self._changed.notify_all()


def numbered(number: int, buffers: Sequence[Array] = (), on_release: Callable[[], None] | None = None) -> Message:
    return Message(number.to_bytes(4, "big"), buffers, on_release)


def number_of(message: Message) -> int:
    return int.from_bytes(message.header, "big")


def payload(number: int) -> Array:
    return np.full(8192, number, np.int64)  # 64 KiB


def bytes_of(buffers: Sequence[Array]) -> list[bytes]:
    """Only the bytes must arrive: shape and dtype of a received buffer are the transport's."""
    return [buffer.tobytes() for buffer in buffers]


def attempts(what: str) -> Iterator[None]:
    """Tries until the caller leaves the loop, with a pause after each. Raises: AssertionError at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        yield
        time.sleep(RETRY_S)
    raise AssertionError(f"expected that {what}, got nothing for {DEADLINE_S} s")


def is_taken(transport: Transport, to: PeerId, message: Message) -> bool:
    try:
        transport.send_nowait(to, message)
    except OutboxFull:
        return False
    return True


def send(transport: Transport, to: PeerId, message: Message) -> None:
    """Sends as a caller would: again after OutboxFull, until the deadline."""
    if not is_taken(transport, to, message):
        for _ in attempts(f"{to} takes a message"):
            if is_taken(transport, to, message):
                return


def send_numbers(transport: Transport, to: PeerId, numbers: range) -> None:
    for number in numbers:
        send(transport, to, numbered(number))


def refusal(transport: Transport, to: PeerId, message: Message) -> OutboxFull | Unreachable | None:
    try:
        transport.send_nowait(to, message)
    except (OutboxFull, Unreachable) as error:
        return error
    return None


def send_until_unreachable(transport: Transport, releases: Releases) -> None:
    """Sends to the server until that is refused with its name; the refused messages are released here."""
    for _ in attempts(f"{SERVER} is unreachable"):
        error = refusal(transport, SERVER, message := releases.message())
        if error is not None:
            assert releases.times[-1] == 0, "expected a refused message to stay the caller's, got it released"
            message.release()
        if isinstance(error, Unreachable):
            assert SERVER in str(error), f"expected an error that names {SERVER}, got: {error}"
            return


def receive(transport: Transport) -> tuple[PeerId, Message]:
    arrived = transport.recv(DEADLINE_S)
    assert arrived is not None, f"expected a message, got nothing for {DEADLINE_S} s"
    return arrived


def receive_numbers(transport: Transport, count: int) -> dict[PeerId, list[int]]:
    """The numbers of the next `count` messages, by sender; the messages are released."""
    numbers: dict[PeerId, list[int]] = {}
    for _ in range(count):
        sender, message = receive(transport)
        numbers.setdefault(sender, []).append(number_of(message))
        message.release()
    return numbers


def receive_or_none(transport: Transport, about_to_wait: Event) -> tuple[PeerId, Message] | None:
    about_to_wait.set()
    return transport.recv(10 * DEADLINE_S)
