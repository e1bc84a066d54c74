"""Every transport passes every check."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ps.key import Key, make_key, read_key
from ps.testing.peers import OpenPeer
from ps.testing.transports import CHECKS
from ps.transport.base import Transport
from ps.transport.cards import Cards, Host, Layout
from ps.transport.memory import MemoryNetwork
from ps.transport.shaped import ShapedTransport
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


def shaped_network(folder: Path) -> OpenPeer:
    """Every peer that is opened has a fast link of its own, and a worker in a second life that of its first."""
    open_inner = zmq_network("tcp")
    path = folder / "links.json"
    place = {**{f"worker:{rank}": f"h{rank}" for rank in range(8)}, "server:0": "h8"}
    Layout(hosts=dict.fromkeys(place.values(), Host(rate=1e9, delay_s=1e-4)), place=place).write(path)

    def open_peer(address: PeerId, *, queued_bytes_max: int) -> Transport:
        inner = open_inner(address, queued_bytes_max=queued_bytes_max)
        return ShapedTransport(inner, Cards(path), place[address], queued_bytes_max)

    return open_peer


TRANSPORTS: dict[str, Callable[[Path], OpenPeer]] = {
    "memory": lambda folder: MemoryNetwork().open,
    "zmq over tcp": lambda folder: zmq_network("tcp"),
    "zmq over ipc": lambda folder: zmq_network("ipc"),
    "zmq over tcp, on links": shaped_network,
    "zmq over tcp with a key": lambda folder: zmq_network("tcp", key()),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("check", CHECKS)
def test_transport(check: str, transport: str, tmp_path: Path) -> None:
    CHECKS[check](lambda: TRANSPORTS[transport](tmp_path))
