"""The transport inside one process: messages pass between threads by reference, nothing is copied."""

from __future__ import annotations

from collections import defaultdict, deque
from threading import Condition

from ps.errors import ConfigError, OutboxFull
from ps.transport.base import Message, Unreachable
from ps.types import PeerId


class MemoryNetwork:
    """The peers of one process by address; an address is free again once its peer is closed."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, MemoryTransport] = {}

    def open(self, address: PeerId, *, queued_bytes_max: int = 256 << 20) -> MemoryTransport:
        """A new peer, reachable at once. `queued_bytes_max` bounds what it has under way to each other peer."""
        peer = MemoryTransport(self._peers, address, queued_bytes_max)
        if self._peers.setdefault(address, peer) is not peer:
            raise ConfigError(f"address: expected one that is not in use, got {address!r}; close its peer first")
        return peer


class MemoryTransport:
    """One peer of a `MemoryNetwork`; made by its `open`.

    One lock per receiver guards its inbox and the count of bytes that each sender has in it.
    """

    def __init__(self, peers: dict[PeerId, MemoryTransport], address: PeerId, queued_bytes_max: int) -> None:
        self.address = address
        self.queued_bytes_max = queued_bytes_max
        self._peers = peers  # shared by the whole network
        self._arrived = Condition()
        self._inbox: deque[tuple[PeerId, Message, int]] = deque()  # sender, message, its bytes when it was sent
        self._queued_bytes: defaultdict[PeerId, int] = defaultdict(int)  # in the inbox, by sender
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def send_nowait(self, to: PeerId, message: Message) -> None:
        """See `Transport`. A closed peer cannot send either: Unreachable, naming itself."""
        if self._closed:
            raise Unreachable(f"{self.address}: expected to be open when it sends, got closed; open it again")
        peer = self._peers.get(to)
        if peer is None:
            raise _unreachable(to)
        peer._take(self.address, message, self.queued_bytes_max)

    def recv(self, timeout: float) -> tuple[PeerId, Message] | None:
        with self._arrived:
            if not self._inbox and not self._arrived.wait_for(lambda: self._inbox or self._closed, timeout):
                return None
            if self._closed:
                return None
            sender, message, nbytes = self._inbox.popleft()
            self._queued_bytes[sender] -= nbytes
        return sender, message

    def close(self) -> None:
        """See `Transport`. What this peer has sent still arrives. The second call does nothing."""
        with self._arrived:
            if self._closed:
                return
            self._closed = True
            lost, self._inbox = self._inbox, deque()
            self._arrived.notify_all()
        del self._peers[self.address]
        for _, message, _ in lost:  # outside the lock: on_release is the sender's code and may send
            message.release()

    def _take(self, sender: PeerId, message: Message, queued_bytes_max: int) -> None:
        nbytes = message.nbytes
        with self._arrived:
            if self._closed:
                raise _unreachable(self.address)
            queued_bytes = self._queued_bytes[sender]
            if queued_bytes and queued_bytes + nbytes > queued_bytes_max:
                raise OutboxFull(
                    f"{self.address}: expected at most {queued_bytes_max} bytes of {sender} not yet received, "
                    f"got {queued_bytes} and a message of {nbytes}; retry once it has received some"
                )
            self._queued_bytes[sender] = queued_bytes + nbytes
            self._inbox.append((sender, message, nbytes))
            self._arrived.notify()


def _unreachable(address: PeerId) -> Unreachable:
    return Unreachable(f"{address}: expected a peer that is open in this process, got none; ask where it is and retry")
