"""Performs what the Controller decides: decodes, sends, keeps its timer. One thread runs it."""

from __future__ import annotations

from collections.abc import Callable

from ps import wire
from ps.controller.actions import Send
from ps.controller.core import Controller
from ps.errors import FrameError, OutboxFull
from ps.messages import Log
from ps.transport.base import Message, Unreachable
from ps.types import PeerId


class ControllerRuntime:
    """The controller behind a transport."""

    def __init__(self, core: Controller, job: bytes, send: Callable[[PeerId, Message], None]) -> None:
        self.core, self.job, self._send = core, job, send
        self.rejected = 0
        self.on_log: Callable[[Log, float], None] = lambda log, now: None  # for who wants to know what workers log

    def receive(self, sender: PeerId, message: Message, now: float) -> None:
        """One message from a peer; bad bytes are counted and passed over."""
        try:
            for body in wire.decode(message.header, self.job):
                if isinstance(body, Log):
                    self.on_log(body, now)
                self.perform(self.core.handle(sender, body, now))
        except FrameError:
            self.rejected += 1
        message.release()

    def on_timer(self, now: float) -> None:
        """Leases and deadlines."""
        self.perform(self.core.on_timer(now))

    def perform(self, sends: list[Send]) -> None:
        """Sends; a peer that is gone will be noticed by its lease."""
        for send in sends:
            try:
                self._send(send.to, Message(wire.encode(self.job, send.body)))
            except (Unreachable, OutboxFull):
                self.rejected += 1
