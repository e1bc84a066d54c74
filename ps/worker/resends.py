"""When what is unanswered is sent again: ever later, and not while it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ps.buffers import UnderWay

BACKOFF_MAX = 5  # resends wait resend_s * 2^0 ... 2^5
INIT = -1

Key: TypeAlias = tuple[Any, ...]  # (kind, shard, ...); the last part names a push, or INIT


@dataclass(slots=True)
class Due:
    """When something unanswered is sent again."""

    at: float
    tries: int = 0


class Resends:
    """The timers of a session, by what they are for."""

    def __init__(self, resend_s: float) -> None:
        self.resend_s = resend_s
        self.sending = UnderWay()  # (push or INIT, shard)
        self._due: dict[Key, Due] = {}

    def sent(self, key: Key, now: float) -> None:
        """It has just been handed over."""
        due = self._due.setdefault(key, Due(now))
        due.at = now + self.resend_s * 2.0 ** min(due.tries, BACKOFF_MAX)
        due.tries += 1

    def moves(self, key: Key, now: float) -> None:
        """A part of it has just left or been answered: on a slow link the rest only takes its time."""
        if key in self._due:
            self._due[key].at = max(self._due[key].at, now + self.resend_s)

    def at_once(self, key: Key, now: float) -> None:
        """It is known to be missing."""
        self._due.setdefault(key, Due(now)).at = now

    def take_due(self, now: float, is_open: Callable[[Key], bool]) -> list[Key]:
        """What is to be sent again now; what has been answered is forgotten."""
        for key in [key for key in self._due if not is_open(key)]:
            del self._due[key]
        due = [key for key, one in self._due.items() if one.at <= now]
        for key in due:
            if (key[-1], key[1]) in self.sending:
                self.moves(key, now)
        return [key for key in due if (key[-1], key[1]) not in self.sending]

    def next(self) -> float:
        """When `take_due` has something; infinity when nothing is unanswered."""
        return min((due.at for due in self._due.values()), default=float("inf"))
