"""What the command `netlab` is asked for, with a stand-in on PATH that writes down its arguments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ps.errors import ConfigError
from ps.experiments import netlab, runner
from ps.experiments.cells import Cell, untuned_cells
from ps.experiments.files import parse_experiment

STAND_IN = """#!/bin/sh
echo "$@" >> {log}
case "$1" in
  run) shift 3; exec "$@" ;;
  {broken}) echo "no more namespaces" >&2; exit 3 ;;
esac
"""
SWEEP = """
name = "hosts"
script = "train.py"
world = "netlab"
[run]
workers = 2
servers = "colocated"
[links]
rate_mbit = 100
delay_ms = 0.5
[links.hosts.h2]
rate_mbit = 25
[report]
metric = "loss"
best = "min"
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file with a line for each call; `inside` leaves no handler and no name of its network behind."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("NETLAB", "as it was")
    install(tmp_path)
    yield tmp_path / "asked"
    signal.signal(signal.SIGTERM, before)


def install(folder: Path, broken: str = "none") -> None:
    stand_in = folder / "netlab"
    stand_in.write_text(STAND_IN.format(log=folder / "asked", broken=broken))
    stand_in.chmod(0o755)


def cell_of(folder: Path) -> Cell:
    (folder / "train.py").write_text("")
    [cell] = untuned_cells(parse_experiment(folder / "sweep.toml", SWEEP), folder)
    return cell


def test_hosts_are_made_limited_used_and_removed(asked: Path, tmp_path: Path) -> None:
    code = netlab.inside(cell_of(tmp_path), "network", [sys.executable, "-c", "import sys; sys.exit(7)"])
    assert code == 7
    began, up, *limits, run, ended = asked.read_text().splitlines()
    assert (began, up, ended) == ("down", "up 3 --rate 10000 --rtt 1", "down")
    assert limits == ["limit h1 100", "limit h2 25"]
    assert run.startswith("run h3 -- "), "the controller's host is the one after the last"


def test_the_next_cell_of_a_slot_removes_what_the_last_one_has_left(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of a cell of sweep a, one after the other; one beside them; one of sweep b."""
    monkeypatch.setattr(subprocess, "call", lambda command: 0)
    networks = []
    for sweep, slot, text in (("a", 0, ""), ("a", 0, "edited"), ("a", 1, ""), ("b", 0, "")):
        (tmp_path / "train.py").write_text(text)
        [cell] = untuned_cells(parse_experiment(tmp_path / "sweep.toml", SWEEP), tmp_path)
        folder = tmp_path / sweep / "cells" / cell.id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cell.json").write_text(cell.model_dump_json())
        monkeypatch.setattr(sys, "argv", ["runner", "--slot", str(slot), str(folder)])
        assert runner.main() == 0
        networks.append(os.environ["NETLAB"])
    first, again, beside, other = networks
    assert first == again and len({first, beside, other}) == 3


@pytest.mark.parametrize("broken", ["up", "limit"])
def test_hosts_that_cannot_be_made_are_removed(asked: Path, tmp_path: Path, broken: str) -> None:
    install(tmp_path, broken)
    with pytest.raises(ConfigError, match=rf"^netlab {broken} .*: no more namespaces$"):
        netlab.inside(cell_of(tmp_path), "network", ["true"])
    assert asked.read_text().splitlines()[-1] == "down"


def test_a_command_that_does_not_end_is_named(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[1] == "up":
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(ConfigError, match=r"^netlab up 3 --rate 10000 --rtt 1: expected an end within 60 s, got none$"):
        netlab.inside(cell_of(tmp_path), "network", ["true"])


class Later:
    """A timer whose end the test brings about."""

    waiting: ClassVar[list[Later]] = []

    def __init__(self, seconds: float, do: Callable[..., None], args: tuple[str, ...]) -> None:
        self.seconds, self._do, self._args = seconds, do, args
        self.daemon = False

    def start(self) -> None:
        assert self.daemon, "a run that has ended does not wait for it"
        self.waiting.append(self)

    def end(self) -> None:
        self._do(*self._args)


def test_a_host_is_mended_once_the_last_of_its_cuts_is_over(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlab, "Timer", Later)
    monkeypatch.setattr(Later, "waiting", [])
    for host, seconds in (("h1", 1.0), ("h2", 1.5), ("h1", 2.0)):
        netlab.cut(host, seconds)
    assert [one.seconds for one in Later.waiting] == [1.0, 1.5, 2.0]
    for one in Later.waiting:
        one.end()
    assert asked.read_text().splitlines() == ["cut h1", "cut h2", "cut h1", "mend h2", "mend h1"]


class Watched:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self, waits: threading.Event) -> None:
        self._lock, self._waits = threading.Lock(), waits

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waits.set()
            self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def test_a_cut_that_ends_while_another_begins_does_not_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer of the first goes off during the command of the second, which goes on once that waits or is over."""
    asked: list[str] = []
    goes_on = threading.Event()

    def end_first() -> None:
        Later.waiting[0].end()
        goes_on.set()

    timer = threading.Thread(target=end_first)

    def command(*args: str) -> None:
        asked.append(" ".join(args))
        if asked == ["cut h1", "cut h1"]:
            timer.start()
            assert goes_on.wait(timeout=10)

    monkeypatch.setattr(netlab, "Timer", Later)
    monkeypatch.setattr(Later, "waiting", [])
    monkeypatch.setattr(netlab, "_LOCK", Watched(goes_on))
    monkeypatch.setattr(netlab, "_netlab", command)
    netlab.cut("h1", 1.0)
    netlab.cut("h1", 2.0)
    timer.join()
    assert asked == ["cut h1", "cut h1"]
    Later.waiting[1].end()
    assert asked == ["cut h1", "cut h1", "mend h1"]


def test_what_is_missing_is_said(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert netlab.missing() is None
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert netlab.missing() == "expected root, as netlab needs, got user 1000"
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "got none on PATH" in (netlab.missing() or "")
