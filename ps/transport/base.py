"""What every transport is: it moves messages between named peers and knows nothing of clocks or gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ps.errors import PeerError
from ps.types import Array, PeerId


class Unreachable(PeerError):
    """The peer is not there (any more); what was sent to it and not yet received is lost."""


@dataclass(slots=True)
class Message:
    """One header (MessagePack bytes) and raw buffers.

    Buffers are contiguous arrays that nobody writes while the message is held. Sending hands the message over: the
    transport, and after it the receiver, calls `release()` when the buffers are needed no longer.
    """

    header: bytes
    buffers: Sequence[Array] = ()
    on_release: Callable[[], None] | None = field(default=None, compare=False)

    @property
    def nbytes(self) -> int:
        """Header and payload bytes, what bounds and counters count."""
        return len(self.header) + sum(buffer.nbytes for buffer in self.buffers)

    def release(self) -> None:
        """Lets go of the buffers. The second call does nothing."""
        done, self.on_release, self.buffers = self.on_release, None, ()
        if done is not None:
            done()


class Transport(Protocol):
    """One peer's way to all others. Sends may come from any thread, `recv` from one thread at a time.

    Messages of one sender to one receiver arrive in order, each at most once.
    """

    @property
    def address(self) -> PeerId: ...

    def send_nowait(self, to: PeerId, message: Message) -> None:
        """Hands the message over; never waits.

        Raises: OutboxFull when more than the byte bound of this pair is not yet received (one message of any size is
        always taken when nothing else is under way); Unreachable when there is no such peer. In both cases the
        message stays the caller's.
        """

    def recv(self, timeout: float) -> tuple[PeerId, Message] | None:
        """The next message and its sender; None after `timeout` seconds or once the transport is closed."""

    def close(self) -> None:
        """Ends this peer: waiting `recv` calls return, what is queued here is released, later sends to it raise."""
