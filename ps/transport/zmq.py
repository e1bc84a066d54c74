"""The transport between processes: ZeroMQ over tcp or ipc.

A server binds one ROUTER, everybody else dials it with a DEALER: workers only dial out. libzmq's thread does the
network without Python; beside it only pyzmq's own, which frees buffers, and no queue of ours. Large buffers are not
copied: libzmq reads them where they are, and a message is released once it has. What arrives stays in libzmq's memory
until it is released.

A routing id is the job id and the address, so that nobody who does not know the job can take a peer's place.

With a key both ends of tcp prove that they have it before a message is read (`curve`). An ipc place has no file whose
mode could guard it; there the kernel tells which user dials, key or not.
"""

from __future__ import annotations

import os
import re
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import zmq
import zmq.utils.garbage  # its thread frees what is sent without a copy; imported first, so that it ends last
from zmq.utils.monitor import recv_monitor_message

from ps.errors import ConfigError, OutboxFull
from ps.key import Key
from ps.transport.base import Message, Unreachable
from ps.transport.bell import Bell
from ps.transport.curve import OVERHEAD_BYTES, Door, lock, unlock
from ps.transport.packing import LARGE_BYTES, packed, unpacked
from ps.transport.ways import Flight, Way
from ps.types import Array, PeerId

FRAME_BYTES_MAX = 64 << 20  # of one buffer or header; a peer that claims more is cut off before memory is taken
UNREAD_MAX = 16  # messages of one peer that lie here unread; the rest stays with the sender, where it is counted
UNSENT_MAX = 1000  # messages to one peer that libzmq holds
CONNECT_S = 2.0  # a peer that has been away for so long is unreachable; until then its messages wait
LOOK_S = 0.1  # connections are looked after so often
FLUSH_S = 1.0  # closing waits so long for what is not yet sent
HEARTBEAT_S, SILENT_S = 10, 30  # a link that is cut for less comes back by itself
STRANGER = "stranger:"
LOCAL = "ipc://"
POLLIN, NOBLOCK, SNDMORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.SNDMORE)  # enums take a microsecond each


class ZmqTransport:
    """One peer. `listen` makes it reachable; `endpoint_of` tells where a peer listens, None: nobody knows.

    key: of the cluster; both ends have it, or neither.
    """

    def __init__(
        self,
        address: PeerId,
        job: bytes,
        endpoint_of: Callable[[PeerId], str | None] = lambda to: None,
        *,
        queued_bytes_max: int = 256 << 20,
        key: Key | None = None,
    ) -> None:
        self.address, self.job, self._endpoint_of = address, job, endpoint_of  # the first two hold for new ways
        self.queued_bytes_max, self._key = queued_bytes_max, key
        self._context = zmq.Context(io_threads=1)
        self._router: zmq.Socket[bytes] | None = None
        self._door: Door | None = None
        self._ways: dict[PeerId, Way] = {}
        self._sockets: list[zmq.Socket[bytes]] = []  # to receive from, the one that is next first
        self._at: dict[zmq.Socket[bytes], PeerId] = {}  # dialled sockets: who is there
        self._lock = threading.Lock()  # sockets are for one thread at a time
        self._landed = threading.Lock()  # guards the counts of what is under way; nothing else is done under it
        self._flights: set[Flight] = set()
        self._handed: deque[tuple[PeerId, Message]] = deque()  # from other threads of this process
        self._bell = Bell()
        self._poll = select.poll()
        self._poll.register(self._bell.fd, select.POLLIN)
        self._waits = False
        self._awake = self._closed = False

    @property
    def is_closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def listen(self, endpoint: str) -> str:
        """Makes this peer reachable at "tcp://host:port" (port 0: a free one) or "ipc://..."; returns where.

        Raises: ConfigError when the place is taken or is none.
        """
        socket = self._socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # who starts again takes its old place
        if endpoint.startswith(LOCAL):
            socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())  # anybody can read its name in /proc/net/unix
        elif self._key is not None:
            lock(socket, self._key)
            if self._door is None:
                self._door = Door(self._context, self._key)
                self._poll.register(self._door.fd, select.POLLIN)
        try:
            socket.bind(f"{endpoint[:-1]}*" if endpoint.endswith(":0") else endpoint)
        except zmq.ZMQError as error:
            socket.close(0)
            raise ConfigError(
                f"listen: expected a free address of this machine, got {endpoint!r} ({error}); choose another"
            ) from None
        self._router = socket
        self._receive_from(socket)
        return re.sub(r"\[::ffff:([\d.]+)\]", r"\1", socket.getsockopt_string(zmq.LAST_ENDPOINT))  # an IPv4 place

    # ---- sending ----------------------------------------------------------------------------------------------------

    def send_nowait(self, to: PeerId, message: Message) -> None:
        """See `Transport`."""
        nbytes = message.nbytes
        with self._lock:
            way = self._way(to)
            self._check_connection(way)
            if way.queued_bytes and way.queued_bytes + nbytes > self.queued_bytes_max:
                raise OutboxFull(
                    f"{to}: expected at most {self.queued_bytes_max} bytes not yet sent, got {way.queued_bytes} and a "
                    f"message of {nbytes}; retry once it has read some"
                )
            frames: list[bytes | Array] = [*way.prefix]
            frames += packed(message.header, [_bytes_of(buffer) for buffer in message.buffers])
            flight = self._flight(way, message, frames, nbytes)
            try:
                self._send(way, frames)
            except BaseException:
                if flight is not None:  # the message stays the caller's
                    with self._landed:
                        if flight in self._flights:
                            self._flights.discard(flight)
                            way.queued_bytes -= nbytes
                raise
            if flight is None:
                self._forget(way)
            if self._waits and self._readable():
                self._bell.ring()  # this thread took the event that the waiting one is to see
        if flight is None:
            message.release()

    def _flight(self, way: Way, message: Message, frames: list[bytes | Array], nbytes: int) -> Flight | None:
        """None where all frames are copied."""
        count = sum(isinstance(frame, np.ndarray) for frame in frames)
        if not count:
            return None
        flight = Flight(message, way, nbytes, count)

        def landed(_: object) -> None:  # called where the last reference to a view goes: often in pyzmq's thread
            with self._landed:
                flight.left -= 1
                last = flight.left == 0 and flight in self._flights
                if last:
                    self._flights.discard(flight)
                    way.queued_bytes -= nbytes
            if last:
                self._forget(way)
                message.release()

        flight.views = [weakref.ref(frame, landed) for frame in frames if isinstance(frame, np.ndarray)]
        with self._landed:
            self._flights.add(flight)
            way.queued_bytes += nbytes
        return flight

    def _forget(self, way: Way) -> None:
        """Nothing is kept of whom this peer only answers: strangers come and go."""
        if way.prefix and not way.queued_bytes and self._ways.get(way.to) is way:
            self._ways.pop(way.to, None)

    def _send(self, way: Way, frames: list[bytes | Array]) -> None:
        """Hands the frames to libzmq and lets go of them: arrays are read where they are, and its reference has to be
        the last one. Only the first frame can be refused: a message is whole or not at all."""
        is_first = True
        while frames:
            frame = frames[0]
            try:
                flags = (SNDMORE if len(frames) > 1 else 0) | (NOBLOCK if is_first else 0)
                if isinstance(frame, bytes):
                    way.socket.send(frame, flags)
                else:
                    way.socket.send(frame.data, flags, copy=False)
            except zmq.Again:
                raise OutboxFull(
                    f"{way.to}: expected room in its outbox, got none; retry once it has read some"
                ) from None
            except zmq.ZMQError as error:
                raise Unreachable(f"{way.to}: expected a peer that is connected, got none ({error})") from None
            is_first = False
            del frames[0], frame

    def _check_connection(self, way: Way) -> None:
        """Raises: Unreachable when nobody has been there for longer than a connection takes."""
        now = time.monotonic()
        if way.monitor is None or now - way.looked_at < LOOK_S:
            return
        way.looked_at = now
        while way.monitor.poll(0):
            up = recv_monitor_message(way.monitor)["event"] == zmq.Event.HANDSHAKE_SUCCEEDED
            way.down_since = float("inf") if up else min(way.down_since, now)
        if now - way.down_since > CONNECT_S:
            way.looked_at = 0.0  # the next one is told, too
            peer = "a peer" if self._key is None else "a peer with the same key"
            raise Unreachable(f"{way.to}: expected {peer} at {way.endpoint}, got no answer for {CONNECT_S:g} s")

    def _way(self, to: PeerId) -> Way:
        """Raises: Unreachable when nobody knows where the peer is."""
        if self._closed:
            raise Unreachable(f"{self.address}: expected to be open when it sends, got closed; open it again")
        way = self._ways.get(to)
        endpoint = self._endpoint_of(to)
        if way is not None and (endpoint is None or endpoint == way.endpoint):
            return way
        if endpoint is None:
            if self._router is None:
                raise Unreachable(f"{to}: expected a peer whose address is known, got none; ask where it is")
            way = Way(to, self._router, (self._routing_id(to),))
        else:
            if way is not None:  # it listens elsewhere now
                self._drop(way)
            way = self._dial(to, endpoint)
        self._ways[to] = way
        return way

    def _dial(self, to: PeerId, endpoint: str) -> Way:
        socket = self._socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, self._routing_id(self.address))
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if self._key is not None and not endpoint.startswith(LOCAL):
            unlock(socket, self._key)
        events = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
        monitor = socket.get_monitor_socket(int(events | zmq.Event.CLOSED))
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            _end_monitor(socket, monitor)
            socket.close(0)
            raise Unreachable(f"{to}: expected an address like tcp://host:port, got {endpoint!r} ({error})") from None
        self._receive_from(socket)
        self._at[socket] = to
        return Way(to, socket, (), endpoint, monitor, down_since=time.monotonic())

    def _drop(self, way: Way) -> None:
        self._sockets.remove(way.socket)
        del self._at[way.socket]
        self._poll.unregister(_option(way.socket, zmq.FD))
        _end_monitor(way.socket, way.monitor)
        way.socket.close(0)

    # ---- receiving --------------------------------------------------------------------------------------------------

    def recv(self, timeout: float) -> tuple[PeerId, Message] | None:
        """See `Transport`."""
        deadline = time.monotonic() + timeout if timeout > 0 else 0.0
        while True:
            if (item := self._arrived()) is not None or self._closed or self._awake:
                self._awake = False
                return item
            left = deadline - time.monotonic() if timeout > 0 else 0.0
            if left <= 0:
                return None
            if any(fd == self._bell.fd for fd, _ in self._poll.poll(left * 1e3 + 1)):
                self._bell.hush()

    def hand_in(self, sender: PeerId, message: Message) -> None:
        """Gives `recv` a message that came another way; from any thread."""
        self._handed.append((sender, message))
        self._bell.ring()

    def wake(self) -> None:
        """Lets a waiting `recv` return before its time; from any thread."""
        self._awake = True
        self._bell.ring()

    def close(self) -> None:
        """See `Transport`. Waits at most FLUSH_S for what is not yet sent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for way in list(self._ways.values()):  # pyzmq's thread forgets some
                _end_monitor(way.socket, way.monitor)
            for socket in self._sockets:
                socket.close(int(FLUSH_S * 1e3))
            self._sockets.clear()
            if self._door is not None:
                self._door.close()
        self._bell.ring()
        self._context.term()
        while self._handed:
            self._handed.popleft()[1].release()

    def _arrived(self) -> tuple[PeerId, Message] | None:
        """The next message, without waiting. Once there is none, `poll` will tell of the next one."""
        if self._handed:
            return self._handed.popleft()
        with self._lock:
            self._waits = False
            if self._closed:
                return None
            if self._door is not None:
                self._door.answer()
            for _ in range(len(self._sockets)):
                socket = self._sockets[0]
                while (item := self._take(socket)) is not None:
                    if item[1] is not None:
                        return item[0], item[1]
                self._sockets.append(self._sockets.pop(0))  # the next one first
            self._waits = True
        return self._handed.popleft() if self._handed else None

    def _take(self, socket: zmq.Socket[bytes]) -> tuple[PeerId, Message | None] | None:
        """One message of a socket; None when there is none, no message in it when it makes no sense."""
        if not _option(socket, zmq.EVENTS) & POLLIN:
            return None
        frames = socket.recv_multipart(NOBLOCK, copy=False)
        if socket is self._router:
            sender, frames = self._sender(frames[0].bytes), frames[1:]
        else:
            sender = self._at[socket]
        if not frames:
            return sender, None
        first = frames[0].bytes if len(frames[0]) < LARGE_BYTES else frames[0].buffer
        return sender, unpacked(first, [np.frombuffer(frame.buffer, np.uint8) for frame in frames[1:]])

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, int(FLUSH_S * 1e3)),
            (zmq.MAXMSGSIZE, FRAME_BYTES_MAX + (OVERHEAD_BYTES if self._key is not None else 0)),
            (zmq.SNDHWM, UNSENT_MAX),
            (zmq.RCVHWM, UNREAD_MAX),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_S * 1000),
            (zmq.HEARTBEAT_TIMEOUT, SILENT_S * 1000),
            (zmq.IPV6, 1),
        ):
            socket.setsockopt(option, value)
        return socket

    def _receive_from(self, socket: zmq.Socket[bytes]) -> None:
        self._sockets.append(socket)
        self._poll.register(_option(socket, zmq.FD), select.POLLIN)
        if self._waits:
            self._bell.ring()  # who waits does not know of this socket

    def _readable(self) -> bool:
        return any(_option(socket, zmq.EVENTS) & POLLIN for socket in self._sockets)

    def _routing_id(self, peer: PeerId) -> bytes:
        if peer.startswith(STRANGER):
            return bytes.fromhex(peer[len(STRANGER) :])
        return self.job + peer.encode()

    def _sender(self, routing_id: bytes) -> PeerId:
        if routing_id.startswith(self.job):
            name = routing_id[len(self.job) :].decode("ascii", "replace")
            if not name.startswith(STRANGER):
                return PeerId(name)
        return PeerId(STRANGER + routing_id.hex())


def _option(socket: zmq.Socket[bytes], option: zmq.SocketOption) -> int:
    value: Any = socket.getsockopt(option)
    return int(value)


def _end_monitor(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes] | None) -> None:
    if monitor is not None:
        socket.disable_monitor()
        monitor.close(0)


def _bytes_of(buffer: Array) -> Array:
    """The buffer as plain bytes, in an array object of its own: its end tells that libzmq has let go."""
    return buffer.reshape(-1).view(np.uint8)
