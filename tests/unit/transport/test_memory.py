"""What `MemoryTransport` promises beyond the checks of every transport: exact bounds, at once, by reference."""

from __future__ import annotations

import numpy as np
import pytest

from ps.errors import ConfigError, OutboxFull
from ps.transport.base import Message, Transport, Unreachable
from ps.transport.memory import MemoryNetwork, MemoryTransport
from ps.types import PeerId

SERVER, WORKER = PeerId("server:0"), PeerId("worker:0")


def pair(queued_bytes_max: int = 256 << 20) -> tuple[MemoryNetwork, MemoryTransport, MemoryTransport]:
    network = MemoryNetwork()
    return network, network.open(SERVER), network.open(WORKER, queued_bytes_max=queued_bytes_max)


def test_it_is_a_transport() -> None:
    transport: Transport = MemoryNetwork().open(SERVER)
    assert transport.address == SERVER


def test_the_receiver_gets_the_very_message() -> None:
    _, server, worker = pair()
    message = Message(b"header", [np.arange(3)])
    worker.send_nowait(SERVER, message)
    arrived = server.recv(0.0)
    assert arrived is not None
    assert arrived[0] == WORKER
    assert arrived[1] is message


def test_the_bound_counts_bytes_not_yet_received() -> None:
    _, server, worker = pair(queued_bytes_max=10)
    worker.send_nowait(SERVER, Message(b"1234", [np.zeros(4, np.uint8)]))
    worker.send_nowait(SERVER, Message(b"56"))
    with pytest.raises(OutboxFull, match=r"server:0: expected at most 10 bytes of worker:0 .* got 10 and .* of 1;"):
        worker.send_nowait(SERVER, Message(b"7"))
    assert server.recv(0.0) is not None
    worker.send_nowait(SERVER, Message(b"12345678"))
    with pytest.raises(OutboxFull):
        worker.send_nowait(SERVER, Message(b"9"))


def test_a_release_before_reception_does_not_lose_bytes_of_the_bound() -> None:
    _, server, worker = pair(queued_bytes_max=10)
    message = Message(b"", [np.zeros(10, np.uint8)])
    worker.send_nowait(SERVER, message)
    message.release()
    assert server.recv(0.0) is not None
    worker.send_nowait(SERVER, Message(b"12345"))
    worker.send_nowait(SERVER, Message(b"67890"))


def test_the_bound_is_per_pair() -> None:
    network, server, worker = pair(queued_bytes_max=1)
    other = network.open(PeerId("worker:1"), queued_bytes_max=1)
    for sender, to in ((worker, SERVER), (other, SERVER), (worker, other.address), (server, WORKER)):
        sender.send_nowait(to, Message(b"large"))
    for sender, to in ((worker, SERVER), (other, SERVER), (worker, other.address)):
        with pytest.raises(OutboxFull):
            sender.send_nowait(to, Message(b"x"))
    server.send_nowait(WORKER, Message(b"x"))  # its own bound is the default


def test_one_message_of_any_size_is_taken_when_nothing_is_under_way() -> None:
    _, server, worker = pair(queued_bytes_max=4)
    for _ in range(2):
        worker.send_nowait(SERVER, Message(bytes(1000)))
        with pytest.raises(OutboxFull):
            worker.send_nowait(SERVER, Message(b"x"))
        assert server.recv(0.0) is not None


def test_close_releases_what_is_queued_here_and_lets_arrive_what_was_sent() -> None:
    _, server, worker = pair()
    released: list[str] = []
    worker.send_nowait(SERVER, Message(b"", on_release=lambda: released.append("queued")))
    server.send_nowait(WORKER, Message(b"", on_release=lambda: released.append("sent")))
    server.close()
    assert released == ["queued"]
    assert worker.recv(0.0) is not None
    assert server.recv(60.0) is None


def test_sends_to_an_absent_or_closed_peer_and_from_a_closed_one_are_unreachable() -> None:
    _, server, worker = pair()
    with pytest.raises(Unreachable, match="server:9: expected a peer that is open"):
        worker.send_nowait(PeerId("server:9"), Message(b""))
    server.close()
    with pytest.raises(Unreachable, match="server:0: expected a peer that is open"):
        worker.send_nowait(SERVER, Message(b""))
    with pytest.raises(Unreachable, match="server:0: expected to be open when it sends"):
        server.send_nowait(WORKER, Message(b""))


def test_release_may_send_to_the_peer_that_closes() -> None:
    _, server, worker = pair()
    refused: list[str] = []

    def send_again() -> None:
        try:
            worker.send_nowait(SERVER, Message(b""))
        except Unreachable as error:
            refused.append(str(error))

    worker.send_nowait(SERVER, Message(b"", on_release=send_again))
    server.close()
    assert len(refused) == 1


def test_a_live_address_cannot_be_opened_twice_but_a_closed_one_can() -> None:
    network, old, worker = pair()
    with pytest.raises(ConfigError, match="'server:0'"):
        network.open(SERVER)
    worker.send_nowait(SERVER, Message(b"before"))
    old.close()
    new = network.open(SERVER)
    old.close()  # must not close its successor
    worker.send_nowait(SERVER, Message(b"after"))
    assert new.recv(0.0) == (WORKER, Message(b"after"))
    assert new.recv(0.0) is None
