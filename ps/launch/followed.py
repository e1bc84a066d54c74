"""What a controller says, to its own terminal and to who has submitted its job; and who is still missing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from ps.launch.view import Plain, View, summary

FOLLOW_EVERY_S = 1.0  # between two lines of progress for who follows
MISSING_EVERY_S = 10.0  # who is not there yet is named so often


class Followers(Protocol):
    """What is needed of `ps.control.service.ControlServer`."""

    def tell_followers(self, text: str, progress: bool = False) -> None: ...


class Followed(Plain):
    """Plain lines here, the same words and more progress there."""

    def __init__(self, followers: Followers, quiet: bool) -> None:
        super().__init__(quiet)
        self._followers, self._sent_at, self._sent = followers, 0.0, ""

    def note(self, text: str) -> None:
        self.here(text)
        self._followers.tell_followers(text)

    def here(self, text: str) -> None:
        """What who follows knows already."""
        super().note(text)

    def update(self, status: Mapping[str, Any], seconds: float, share: float | None) -> None:
        super().update(status, seconds, share)
        if seconds - self._sent_at >= FOLLOW_EVERY_S:
            self._sent_at = seconds
            self.progress(status, seconds, share)

    def progress(self, status: Mapping[str, Any], seconds: float, share: float | None = None) -> None:
        """Clocks and logged values, to who follows, unless nothing of it is new."""
        text = summary(status, seconds, share)
        news = text.partition(", ")[2]  # without the time
        if news != self._sent and any(worker["state"] != "expected" for worker in status["workers"]):
            self._sent = news
            self._followers.tell_followers(text, progress=True)


class Missing:
    """Names who is not there yet, until all have been."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()
        self._complete = False

    def tell(self, status: dict[str, Any], now: float, view: View) -> None:
        """A line every MISSING_EVERY_S, and one when all are there."""
        if self._complete or status["stopped"] is not None:
            return
        names = [f"server {one['shard']}" for one in status["servers"] if one["state"] == "expected"]
        names += [f"worker {one['rank']}" for one in status["workers"] if one["state"] == "expected"]
        if not names:
            self._complete = True
            view.note("all servers and workers are there")
        elif now - self._told_at >= MISSING_EVERY_S:
            self._told_at = now
            agents = len(status.get("agents", ())) if status.get("submitted") is None else 0
            idle = f"; agents that wait for a job (psctl submit): {agents}" if agents else ""
            view.note(f"waiting for {', '.join(names)}{idle}")
