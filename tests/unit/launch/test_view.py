"""What one sees, with a terminal and without."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from ps.launch.view import Live, Plain, open_view, summary, table
from tests.unit.launch.fake import CHECKOUT


def status(clocks: list[int], stopped: str | None = None, **logged: float) -> dict[str, Any]:
    workers = [
        {"rank": rank, "state": "running", "clock": clock, "logged": logged} for rank, clock in enumerate(clocks)
    ]
    return {"workers": workers, "servers": [{"shard": 0, "address": "", "state": "running"}], "stopped": stopped}


def test_summary() -> None:
    assert summary(status([40, 44], loss=0.31234), 12.3, None) == "12 s, clocks 40 to 44, loss=0.3123"
    assert summary(status([7, 7]), 0.2, 0.25) == "0 s, clock 7, 25% done"
    one_lost = status([0, 7, 7])
    one_lost["workers"][0]["state"] = "lost"
    assert summary(one_lost, 1, None) == "1 s, clock 7, lost: worker 0"


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    view = open_view(quiet=False)
    assert isinstance(view, Plain)  # no terminal here
    view.line("worker 2", "hello [red]")
    for seconds in (1.0, 4.9, 5.0, 9.0):
        view.update(status([3]), seconds, None)
    said = capsys.readouterr()
    assert said.out == "[worker 2] hello [red]\n" and said.err == "ps: 5 s, clock 3\n"


def test_quiet_has_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    view = open_view(quiet=True)
    view.update(status([3]), 99.0, None)
    view.note("a warning")
    assert capsys.readouterr().err == "ps: a warning\n"


def test_live_prints_lines_above_its_table() -> None:
    screen = io.StringIO()
    view = Live(Console(file=screen, force_terminal=True, width=80, height=24, highlight=False, color_system=None))
    view.update(status([3, 5], loss=0.5), 61.0, 0.5)
    view.line("worker 1", "[bold]not markup[/] " + "x" * 100)
    view.note("words")
    view.close()
    shown = screen.getvalue()
    assert "[worker 1] [bold]not markup[/] " + "x" * 100 + "\n" in shown and "ps: words\n" in shown
    assert "clock 5" in shown and "loss=0.5" in shown and "1:01" in shown and "50%" in shown


def test_table_of_many_workers_shows_the_slowest() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(table(status(list(range(100, 0, -1)), stopped="all is over\nreally"), 5.0, None, rows=3))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "worker 99" in shown and "worker 0 " not in shown and "97 more" in shown
    assert "all is over" in shown and "really" not in shown


@pytest.mark.parametrize(("term", "kind"), [("xterm", "Live"), ("dumb", "Plain")])
def test_on_a_terminal(term: str, kind: str) -> None:
    main, side = pty.openpty()
    code = "from ps.launch.view import open_view; v = open_view(False); v.line('worker 0', 'hi'); v.close(); print(v)"
    env = {**os.environ, "TERM": term, "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", code], stdout=side, env=env, cwd=CHECKOUT, timeout=30, check=True)
    os.close(side)
    shown = os.read(main, 65536).decode()
    os.close(main)
    assert "[worker 0] hi\r\n" in shown and f"ps.launch.view.{kind} " in shown
    assert "\x1b[36m" not in shown  # no colour


def test_a_reader_that_goes_away_ends_nothing() -> None:
    """`psctl run ... | head -1`: no error, no complaint of Python's at the exit."""
    code = (
        "from ps.launch.view import Plain\nview = Plain()\nview.line('worker 0', 'first')\ninput()\n"
        "for _ in range(3):\n    view.line('worker 0', 'x' * 100_000)\nview.note('still here')"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, cwd=CHECKOUT, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "[worker 0] first\n"
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stderr.read() == "ps: still here\n"
        assert process.wait(30) == 0
