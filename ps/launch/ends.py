"""What the end of a process means: pure, from its exit and what the controller knows."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ps.launch.output import is_traceback, last_words
from ps.launch.supervisor import Exit

Outcome = tuple[str, bool]  # why the job ended; whether that is a failure

_RANK = re.compile(r"worker (\d+) ")  # how the controller's reasons begin when a worker is to blame


class End(Enum):
    """What became of a worker."""

    FINE = "it has finished, or the end of the job is what ended it"
    UNCLEAR = "its last message may still be under way"
    BROKEN = "its script is wrong: another try would end the same way"
    LOST = "it is gone without a word; it may be restarted"


@dataclass
class Failure:
    """The first thing that went wrong, and the child it happened in."""

    why: str
    exit: Exit | None = None

    @property
    def code(self) -> int:
        return (self.exit.shell_code if self.exit is not None else 0) or 1

    def last_words(self) -> list[str]:
        """What the user sees last: the child's traceback."""
        told = self.why.splitlines()[1:]  # a traceback that came through the controller
        if self.exit is None:
            return told
        who = f"[{self.exit.name}] {self.exit.words}"
        printed = last_words(self.exit.tail)
        if printed and (is_traceback(printed) or not told):
            return [f"{who}; its last lines:", *printed]
        return [f"{who}; it printed no traceback, but said:", *told] if told else [f"{who}; it printed nothing"]


def judge(exit: Exit, state: str, outcome: Outcome | None, settled: bool) -> tuple[End, str]:
    """What this exit means, and why in words.

    state: of the worker at the controller. settled: a message that the worker had sent would have arrived by now.
    """
    if exit.asked:
        return End.FINE, "it was told to end"
    if outcome is not None and outcome[1]:
        return End.FINE, "the job has failed already"  # the controller's reason names who is to blame
    if outcome is not None and (exit.code == 0 or heard_of_the_end(exit)):
        return End.FINE, "the job has ended"
    if state == "done":
        return (End.FINE if exit.code == 0 else End.BROKEN), f"{exit.words} after its last clock"
    if outcome is not None and state == "lost":  # the others were through before this exit was seen
        return End.LOST, f"{exit.words} without leaving the cluster"
    if outcome is not None:
        return End.BROKEN, f"{exit.words} while the job was ending"
    if exit.code >= 0 and state == "running" and not settled:
        return End.UNCLEAR, ""
    if exit.code == 0 and state == "expected":
        return End.BROKEN, "ended without joining the cluster; expected its script to call ps.connect()"
    if exit.code > 0 and state == "expected":
        return End.BROKEN, f"{exit.words} before it joined the cluster"
    return End.LOST, f"{exit.words} without leaving the cluster"


def missed(faults: int, left: Sequence[str], clocks: Sequence[int], reason: str) -> str:
    """Why a run fails of whose faults some have not happened: it would pass for one that had them.

    left: these, in words. clocks: where the workers were when it ended, and `reason` why it did.
    """
    low, high = min(clocks, default=0), max(clocks, default=0)
    where = f"clock {low}" if low == high else f"clocks {low} to {high}"
    have = "has" if len(left) == 1 else "have"
    return (
        f"faults: expected all to happen, {len(left)} of {faults} {have} not: {', '.join(left)}; "
        f"the run ended at {where}: {reason}"
    )


def blamed(reason: str) -> int | None:
    """The rank that a reason of the controller names first, None when it is nobody's."""
    found = _RANK.match(reason)
    return int(found[1]) if found else None


def ended(exit: Exit) -> bool:
    """A server has ended in order: by itself, or told to and without a handler for that."""
    return exit.code == 0 or (exit.asked and exit.code == -signal.SIGTERM)


def failed(evaluator: Exit) -> bool:
    """It has ended by a mistake of its own, and not with the job."""
    return not heard_of_the_end(evaluator) and (evaluator.code > 0 or (evaluator.code < 0 and not evaluator.asked))


def heard_of_the_end(exit: Exit) -> bool:
    """By an exception: its script does not look at `should_stop`, which is no failure."""
    last = next((line for line in reversed(exit.tail) if line.strip()), "")
    return "StoppedError" in last
