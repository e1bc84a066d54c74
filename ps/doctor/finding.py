"""What a check says: one line, with a remedy unless all is well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ps.errors import Error

WAIT_S = 3.0  # no check waits longer for an answer
Level = Literal["ok", "warning", "problem"]
Check = Callable[[], Iterable["Finding"]]


@dataclass(frozen=True, slots=True)
class Finding:
    """what: was looked at; found: there; remedy: what to do, empty only when it is ok."""

    level: Level
    what: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return " ".join(f"{self.level:<7}  {self.what}: {self.found}{remedy}".splitlines())


def ok(what: str, found: str) -> Finding:
    return Finding("ok", what, found)


def warning(what: str, found: str, remedy: str) -> Finding:
    return Finding("warning", what, found, remedy)


def problem(what: str, found: str, remedy: str) -> Finding:
    return Finding("problem", what, found, remedy)


def look(what: str, check: Check) -> Iterator[Finding]:
    """The findings of a check; a check that cannot be made is a problem too."""
    try:
        yield from check()
    except ImportError as error:
        yield problem(what, f"not checked: {error}", "install what is missing: pip install --upgrade paramserver")
    except (Error, OSError) as error:
        yield problem(what, f"failed: {error}", "repair that, then run psctl doctor again")
