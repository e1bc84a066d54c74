"""Every transport passes every check."""

from __future__ import annotations

import secrets
from functools import cache
from tempfile import TemporaryDirectory

import pytest

from ps.key import Key, make_key, read_key
from ps.testing.peers import OpenNetwork, OpenPeer
from ps.testing.transports import CHECKS
from ps.transport.base import Transport
from ps.transport.memory import MemoryNetwork
from ps.transport.zmq import ZmqTransport
from ps.types import PeerId


@cache
def key() -> Key:
    """One for all."""
    with TemporaryDirectory() as folder:
        make_key(path := f"{folder}/key")
        return read_key(path)


def zmq_network(scheme: str, key: Key | None = None) -> OpenPeer:
    """Servers listen at free places of this machine; the others learn of them by looking."""
    places: dict[PeerId, str] = {}
    job = secrets.token_bytes(16)

    def open_peer(address: PeerId, *, queued_bytes_max: int) -> Transport:
        peer = ZmqTransport(address, job, places.get, queued_bytes_max=queued_bytes_max, key=key)
        if address.startswith("server:"):
            places[address] = peer.listen(
                "tcp://127.0.0.1:0" if scheme == "tcp" else f"ipc://@ps-{job.hex()}-{address}"
            )
        return peer

    return open_peer


TRANSPORTS: dict[str, OpenNetwork] = {
    "memory": lambda: MemoryNetwork().open,
    "zmq over tcp": lambda: zmq_network("tcp"),
    "zmq over ipc": lambda: zmq_network("ipc"),
    "zmq over tcp with a key": lambda: zmq_network("tcp", key()),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("check", CHECKS)
def test_transport(check: str, transport: str) -> None:
    CHECKS[check](TRANSPORTS[transport])
