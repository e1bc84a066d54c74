"""What one sees while a run goes on: a live view on a terminal, plain lines without one, words of the launcher."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_EVERY_S = 5.0  # between plain lines of progress
BAR = 30  # characters


class View(Protocol):
    """Called by two threads: what is printed comes from the one that reads the children's pipes."""

    def line(self, name: str, text: str) -> None:
        """A line that a child printed."""

    def note(self, text: str) -> None:
        """Words of the launcher itself."""

    def news(self, text: str) -> None:
        """Those that --quiet does without: all is as it was asked for."""

    def update(self, status: Mapping[str, Any], seconds: float, share: float | None) -> None:
        """Where the run is; share: how much of --stop-after is done, None without it."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


class Plain:
    """Lines on stdout, words of the launcher on stderr, a line of progress every few seconds."""

    def __init__(self, quiet: bool = False, every_s: float = PLAIN_EVERY_S) -> None:
        self._quiet, self._every_s = quiet, every_s
        self._told_at = 0.0
        self._lock = threading.Lock()

    def line(self, name: str, text: str) -> None:
        self._write(sys.stdout, f"[{name}] {text}")

    def note(self, text: str) -> None:
        self._write(sys.stderr, f"ps: {text}")

    def news(self, text: str) -> None:
        if not self._quiet:
            self.note(text)

    def update(self, status: Mapping[str, Any], seconds: float, share: float | None) -> None:
        if not self._quiet and seconds - self._told_at >= self._every_s:
            self._told_at = seconds
            self._write(sys.stderr, f"ps: {summary(status, seconds, share)}")

    def close(self) -> None:
        pass

    def _write(self, file: Any, text: str) -> None:
        """A reader that went away (`psctl run ... | head`) must not end the run: its lines are dropped."""
        with self._lock, suppress(OSError):
            try:
                print(text, file=file, flush=True)
            except UnicodeEncodeError:
                print(text.encode("ascii", "backslashreplace").decode(), file=file, flush=True)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # else Python complains at its exit


class Live:
    """A table that stays at the bottom of the terminal; everything else scrolls above it."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live as RichLive

        self._console = console
        self._live = RichLive(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def line(self, name: str, text: str) -> None:
        from rich.text import Text  # loaded with the console

        prefix = Text(f"[{name}] ", style="cyan" if name.startswith("worker") else "magenta")
        self._console.print(prefix + Text.from_ansi(text), soft_wrap=True)

    def note(self, text: str) -> None:
        self._console.print(f"ps: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def news(self, text: str) -> None:
        self.note(text)

    def update(self, status: Mapping[str, Any], seconds: float, share: float | None) -> None:
        self._live.update(table(status, seconds, share, rows=max(4, self._console.height - 8)), refresh=True)

    def close(self) -> None:
        self._live.stop()


def open_view(quiet: bool) -> View:
    """The one that fits: live on a terminal that can move its cursor, plain otherwise."""
    if quiet or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return Plain(quiet)
    from rich.console import Console  # 40 ms, for those who look; it respects NO_COLOR

    return Live(Console(highlight=False))


def summary(status: Mapping[str, Any], seconds: float, share: float | None) -> str:
    """`12 s, clocks 40 to 44, loss=0.31`: of several workers' values the mean."""
    clocks = [worker["clock"] for worker in status["workers"] if worker["state"] != "lost"] or [0]
    span = f"clock {clocks[0]}" if min(clocks) == max(clocks) else f"clocks {min(clocks)} to {max(clocks)}"
    lost = [str(worker["rank"]) for worker in status["workers"] if worker["state"] == "lost"]
    parts = [f"{seconds:.0f} s", span]
    parts += [f"{share:.0%} done"] if share is not None else []
    parts += [f"{name}={value:.4g}" for name, value in means(status).items()]
    parts += [f"lost: worker {', '.join(lost)}"] if lost else []
    return ", ".join(parts)


def means(status: Mapping[str, Any]) -> dict[str, float]:
    """Each metric's mean over the workers that logged it, of their latest values."""
    values: dict[str, list[float]] = {}
    for worker in status["workers"]:
        for name, value in worker["logged"].items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def table(status: Mapping[str, Any], seconds: float, share: float | None, rows: int) -> RenderableType:
    """The live view; at most so many workers are shown, the slowest first when there are more."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    if share is not None:
        title += f"  {'━' * round(BAR * share)}{'╌' * (BAR - round(BAR * share))} {share:.0%}"
    if status["stopped"]:
        title += f"  {str(status['stopped']).partition(chr(10))[0]}"
    made = Table("", "", "", "", box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    workers = list(status["workers"])
    if len(workers) > rows:
        workers = sorted(workers, key=lambda worker: int(worker["clock"]))[:rows]
    for worker in workers:
        logged = "  ".join(f"{name}={value:.4g}" for name, value in worker["logged"].items())
        made.add_row(f"worker {worker['rank']}", worker["state"], f"clock {worker['clock']}", logged)
    if len(workers) < len(status["workers"]):
        made.add_row("...", "", "", f"{len(status['workers']) - len(workers)} more, further on than these")
    states: dict[str, int] = {}
    for server in status["servers"]:
        states[server["state"]] = states.get(server["state"], 0) + 1
    made.add_row("servers", ", ".join(f"{count} {state}" for state, count in states.items()), "", "")
    return Group(Text(title, style="bold", no_wrap=True, overflow="ellipsis"), made)
