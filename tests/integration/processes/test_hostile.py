"""Bytes that no peer of ours would send, at a server's data port during a run: refused and counted, no harm done."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from ps import wire
from ps.control.rpc import SERVICE, grpc
from ps.key import Key, make_key, read_key
from ps.messages import Join, Pull, Push, Rejected
from ps.transport.curve import unlock
from ps.transport.packing import packed, unpacked
from ps.transport.zmq import FRAME_BYTES_MAX
from ps.types import Clock, WorkerId
from tests.integration.processes.helpers import (
    Running,
    Stage,
    assert_bytes_equal,
    descendants,
    is_server,
    status,
    wait_until,
)
from tests.integration.processes.problems import CLOCKS, total

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
CURVE_GREETING = GREETING.replace(b"NULL", b"CURV").replace(b"CURV\0", b"CURVE")
ENDS = zmq.Event.DISCONNECTED | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_AUTH
PROPERTY = b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
READY = b"\x04" + bytes([6 + len(PROPERTY)]) + b"\x05READY" + PROPERTY
LONG_FRAME = b"\x02" + (1 << 62).to_bytes(8, "big")
LONG_MORE = b"\x03"  # flags of a frame with an 8-byte length that is not its message's last
FRAMES = 4
CONNECTS = 500
FLOOD = 60_000  # more than both ends and the kernel hold of answers
ANSWER_S = 10.0

GARBAGE: list[list[bytes]] = [
    [b""],
    [b"\xc1"],
    [b"\x93" * 5000],  # arrays within arrays
    [b"\xdd\xff\xff\xff\xff"],  # an array that claims 2^32 - 1 entries
    [secrets.token_bytes(1000)],
    [secrets.token_bytes(1000), bytes(200_000), b""],
    [msgpack.packb({"a": 1})],
]


class Target:
    """A run whose worker 0 is held in clock 2, and how to reach its server."""

    def __init__(self, stage: Stage, key: Key | None = None) -> None:
        self.stage, self.key = stage, key
        stage.gate("0")
        flags = dict(workers=2, consistency="ssp:staleness=1", optimizer="add", **({"key": key.path} if key else {}))
        self.run: Running = stage.psctl("sums.py", CLOCKS, "0:2:before", **flags)
        _, self.controller, job = stage.sign("held 0", self.run)
        self.job = bytes.fromhex(job)
        self.endpoint: str = status(self.controller, self.key)["servers"][0]["address"]
        host, _, port = self.endpoint.removeprefix("tcp://").rpartition(":")
        self.place = (host.strip("[]"), int(port))

    def dial(self) -> socket.socket:
        return socket.create_connection(self.place, timeout=ANSWER_S)

    def rejected(self) -> float:
        """Messages that the server has counted as rejected."""
        counted: list[Any] = [0.0]
        for peer, metrics in status(self.controller, self.key)["metrics"].items():
            if peer.startswith("server"):
                counted += [value for name, _, value in metrics["counters"] if name == "rejected_messages"]
        return float(sum(counted))

    def expect_unharmed(self, rejected: int | None = None) -> None:
        """So many messages have been counted (any number without it), and the run ends as if nothing had happened."""
        if rejected is not None:
            wait_until(f"{rejected} rejected messages", lambda: self.rejected() >= (rejected or 0))
            assert self.rejected() == rejected
        self.stage.open_gate("0")
        code, _, err = self.run.wait()
        assert code == 0, err
        assert_bytes_equal(self.stage.result("sum"), total({0: CLOCKS, 1: CLOCKS}))


@pytest.fixture
def target(stage: Stage) -> Target:
    return Target(stage)


@pytest.fixture
def keyed(stage: Stage) -> Target:
    """With a key, which no stranger has."""
    return Target(stage, new_key(stage, "key"))


def new_key(stage: Stage, name: str) -> Key:
    make_key(path := str(stage.folder / name))
    return read_key(path)


@contextmanager
def dealer(endpoint: str, routing_id: bytes, key: Key | None = None) -> Iterator[zmq.Socket[bytes]]:
    """A well-behaved ZeroMQ peer, up to what it says."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.setsockopt(zmq.ROUTING_ID, routing_id)
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.SNDTIMEO, int(ANSWER_S * 1e3))
        peer.setsockopt(zmq.RCVTIMEO, int(ANSWER_S * 1e3))
        if key is not None:
            unlock(peer, key)
        peer.connect(endpoint)
        yield peer


def resident_mb(pid: int) -> float:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def answer(peer: zmq.Socket[bytes]) -> Rejected:
    """What the server says to it, whatever job the answer names."""
    header = unpacked(peer.recv(), []).header
    (body,) = wire.decode(header, msgpack.unpackb(header)[1])
    assert isinstance(body, Rejected), body
    return body


def until_closed(peer: socket.socket) -> None:
    """Until the other end hangs up; TimeoutError when it does not."""
    with suppress(ConnectionResetError):
        while peer.recv(65536):
            pass


def send_any_bytes(stack: ExitStack, target: Target, *greetings: bytes) -> None:
    """From 102 peers, which stay connected: each first byte, and as many of each greeting, and then noise."""
    rng = np.random.default_rng(0)
    for first in [*(bytes([byte]) for byte in range(0, 256, 5)), *greetings * (50 // len(greetings))]:
        stack.enter_context(target.dial()).sendall(first + rng.bytes(5000))


def test_bytes_that_are_no_messages_reach_nobody(target: Target) -> None:
    """Garbage, a claim of 2^62 bytes: hung up on. Half a greeting and half a message stay open, and are in nobody's
    way, like hundreds of connections that come and go.
    """
    with ExitStack() as stack:
        for part in (GREETING[:10], GREETING[:33], GREETING + READY, GREETING + READY + b"\x00\x40half of it"):
            stack.enter_context(target.dial()).sendall(part)
        for _ in range(CONNECTS):
            target.dial().close()
        for bad in (bytes(4096), b"\xfe" + bytes(4096)):  # no byte with which ZMTP begins
            peer = stack.enter_context(target.dial())
            peer.sendall(bad)
            until_closed(peer)
        greedy = stack.enter_context(target.dial())
        greedy.sendall(GREETING + READY)
        assert greedy.recv(1) == GREETING[:1], "it speaks ZMTP"
        greedy.sendall(LONG_FRAME + bytes(1000))
        until_closed(greedy)
        target.expect_unharmed(rejected=0)


def test_any_bytes_at_the_port_do_no_harm(target: Target) -> None:
    """Some make messages of an old ZMTP, which are rejected; most make nothing."""
    with ExitStack() as stack:
        send_any_bytes(stack, target, GREETING + READY)
        target.expect_unharmed()


def test_messages_that_make_no_sense_are_answered_and_counted(target: Target) -> None:
    with dealer(target.endpoint, secrets.token_bytes(20)) as peer:
        for frames in GARBAGE:
            peer.send_multipart(frames)
            assert "server:0 refused: " in answer(peer).reason
        target.expect_unharmed(rejected=len(GARBAGE))


def test_nobody_takes_a_workers_place_without_knowing_the_job(target: Target) -> None:
    """Its address alone, or with another job's id: what it says is refused, and what is the worker's own stays so."""
    other_job, none = secrets.token_bytes(wire.JOB_BYTES), np.empty(0, np.int64)
    who = WorkerId(0)
    bodies = [
        Join(who, 99),
        Pull(who, 99, 1, 1, Clock(0), False, np.arange(2), np.zeros(2, np.int64)),
        Push(who, 99, Clock(2), 1.0, none, none, none),
    ]
    for routing_id in (b"worker:0", other_job + b"worker:0", b"stranger:00", b"server:0"):
        with dealer(target.endpoint, routing_id) as peer:
            for body in bodies:
                peer.send_multipart([bytes(frame) for frame in packed(wire.encode(other_job, body), [])])
                told = answer(peer)
                assert "job id" in told.reason and "another job" in told.reason and not told.fenced
    target.expect_unharmed(rejected=4 * len(bodies))


def test_an_answer_to_a_stranger_does_not_tell_it_the_job(target: Target) -> None:
    """The job is what it would need to take a worker's place."""
    with dealer(target.endpoint, b"stranger") as peer:
        peer.send(b"")
        header = unpacked(peer.recv(), []).header
    assert target.job not in header and target.job.hex() not in header.decode("latin-1")


def test_a_stranger_that_asks_much_and_reads_nothing_does_not_slow_the_server(target: Target) -> None:
    with dealer(target.endpoint, b"flood") as peer:
        for _ in range(FLOOD):
            peer.send(b"")
        wait_until("all are rejected", lambda: target.rejected() >= FLOOD, deadline_s=15.0)
        target.expect_unharmed(rejected=FLOOD)


@pytest.mark.parametrize("greeting", [GREETING + READY, CURVE_GREETING])
def test_a_message_without_end_takes_little_memory(keyed: Target, greeting: bytes) -> None:
    """Each frame is as large as the transport allows; the last never comes. Nobody without the key gets so far."""
    (server,) = filter(is_server, descendants(keyed.run.pid))
    before = resident_mb(server)
    with keyed.dial() as peer:
        peer.sendall(greeting)
        with pytest.raises(OSError):
            peer.sendall((LONG_MORE + FRAME_BYTES_MAX.to_bytes(8, "big") + bytes(FRAME_BYTES_MAX)) * FRAMES)
        grown = resident_mb(server) - before
    keyed.expect_unharmed(rejected=0)
    assert grown < 2 * FRAME_BYTES_MAX / 1e6, f"{grown:.0f} MB more"


def test_half_a_frame_of_a_stranger_is_let_go(keyed: Target) -> None:
    """Before a handshake libzmq takes one frame from each connection, until the time for the handshake is up."""
    (server,) = filter(is_server, descendants(keyed.run.pid))
    before = resident_mb(server)
    with ExitStack() as stack:
        for _ in range(FRAMES):
            peer = stack.enter_context(keyed.dial())
            peer.sendall(CURVE_GREETING + LONG_MORE + FRAME_BYTES_MAX.to_bytes(8, "big"))
            peer.sendall(bytes(FRAME_BYTES_MAX - 1))
        wait_until("all is let go", lambda: resident_mb(server) - before < FRAME_BYTES_MAX / 1e6, deadline_s=30.0)
        keyed.expect_unharmed(rejected=0)


def test_nobody_without_the_key_shakes_hands(keyed: Target) -> None:
    """No key; another key; the public half of the server's, which is no way to learn the dialers' secret."""
    other = new_key(keyed.stage, "other")
    assert keyed.key is not None
    halves = replace(other, servers=keyed.key.servers)
    with ExitStack() as stack:
        for key in (None, other, halves):
            peer = stack.enter_context(dealer(keyed.endpoint, keyed.job + b"worker:0", key))
            events = peer.get_monitor_socket(int(zmq.Event.HANDSHAKE_SUCCEEDED | ENDS))
            stack.callback(events.close, 0)
            stack.callback(peer.disable_monitor)
            peer.send_multipart([b"", bytes(FRAME_BYTES_MAX)])
            assert events.poll(int(ANSWER_S * 1e3))
            assert recv_monitor_message(events)["event"] & ENDS
        keyed.expect_unharmed(rejected=0)


def test_any_bytes_at_a_port_with_a_key_do_no_harm(keyed: Target) -> None:
    with ExitStack() as stack:
        send_any_bytes(stack, keyed, GREETING + READY, CURVE_GREETING)
        keyed.expect_unharmed(rejected=0)


def test_any_bytes_at_the_controllers_port_do_no_harm(target: Target) -> None:
    """Connections that come and go, garbage, half an HTTP/2 greeting, frames that are none."""
    host, _, port = target.controller.rpartition(":")
    target.place = (host, int(port))
    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        for _ in range(CONNECTS):
            target.dial().close()
        for first in range(0, 256, 5):
            stack.enter_context(target.dial()).sendall(bytes([first]) + rng.bytes(3000))
        for rest in (b"", rng.bytes(3000)):
            stack.enter_context(target.dial()).sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rest)
        channel = stack.enter_context(grpc.insecure_channel(target.controller))
        frames = (b"", bytes(100), rng.bytes(1000))
        for frame in frames:
            (told,) = channel.stream_stream(f"/{SERVICE}/Join")(iter([frame]), timeout=ANSWER_S)
            assert b"a Hello of this release" in told
        assert status(target.controller)["refused"] == len(frames)
        target.expect_unharmed()
