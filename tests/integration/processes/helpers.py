"""Real runs with deadlines: `psctl run` as a subprocess, signs from its workers, gates that hold them.

Nothing here sleeps to synchronise: a worker says where it is through one FIFO (`Stage.sign`) and waits at another
(`Stage.gate`), ends of processes are waited for with pidfds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ps.control import control_pb2 as pb
from ps.control.rpc import SERVICE, channel
from ps.key import Key

CHECKOUT = Path(__file__).resolve().parents[3]
SCRIPTS = Path(__file__).resolve().parent / "scripts"
DEADLINE_S = 60.0  # of a whole run; reached only by a hang
LOOK_S = 0.05  # between looks at what nobody tells of
Arrays = dict[str, np.ndarray[Any, Any]]


def environment(**more: str) -> dict[str, str]:
    """Ours without variables that would make a process part of another cluster."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PS_")}
    return {**clean, "PYTHONPATH": str(CHECKOUT), "TERM": "dumb", **more}


class Ended(NamedTuple):
    """What was left of a command."""

    code: int
    out: str
    err: str


class Running:
    """A started command whose output goes to files; it is killed with all its descendants at the end of the test."""

    def __init__(self, argv: Sequence[object], folder: Path, env: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=environment() if env is None else env,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """Everything it has printed so far, for failures."""
        return f"--- stdout\n{self._out.read_text()}--- stderr\n{self._err.read_text()}"

    def wait(self, deadline_s: float = DEADLINE_S) -> Ended:
        """Its end. Fails the test, with what it has printed, when it does not end in time."""
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended after {deadline_s:g} s:\n{self.said()}") from None
        return Ended(code, self._out.read_text(), self._err.read_text())

    def end(self) -> None:
        """Kills what is left of it."""
        for pid in [*descendants(self.pid), self.pid] if self.process.poll() is None else []:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Stage:
    """A folder in which scripts of `scripts/` leave results, give signs and wait at gates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Running] = []
        self._gates: dict[str, int] = {}
        os.mkfifo(folder / "signs")
        self._signs = os.open(folder / "signs", os.O_RDWR | os.O_NONBLOCK)  # our own end keeps it open
        self._rest = b""
        self.signs: list[str] = []  # all so far, in the order of their arrival

    # ---- processes --------------------------------------------------------------------------------------------------

    def start(self, name: str, argv: Sequence[object], env: dict[str, str] | None = None) -> Running:
        """Starts a command of this test."""
        running = Running(argv, self.folder / name, env)
        self._running.append(running)
        return running

    def psctl(self, script: str | Path, *args: object, **flags: object) -> Running:
        """Starts `psctl run --FLAG VALUE ... SCRIPT FOLDER ARGS`; SCRIPT is a name in `scripts/` or a path."""
        argv: list[object] = [sys.executable, "-m", "ps.cli.main", "run"]
        for flag, value in {"timeout_s": 20.0, **flags}.items():
            argv += [f"--{flag.replace('_', '-')}", str(value)]
        path = SCRIPTS / script if isinstance(script, str) else script
        return self.start("run", [*argv, path, self.folder, *args])

    def close(self) -> None:
        """Ends everything."""
        for running in self._running:
            running.end()
        for fd in (self._signs, *self._gates.values()):
            os.close(fd)

    # ---- signs and gates --------------------------------------------------------------------------------------------

    def sign(self, wanted: str, running: Running, deadline_s: float = DEADLINE_S) -> list[str]:
        """Waits for a sign that begins with these words; gives the words that follow them."""
        deadline = time.monotonic() + deadline_s
        with _pidfd(running.pid) as pidfd:
            while True:
                for sign in self.signs:
                    if f"{sign} ".startswith(f"{wanted} "):
                        return sign[len(wanted) :].split()
                ready, _, _ = select.select([self._signs, pidfd], [], [], max(0.0, deadline - time.monotonic()))
                if self._signs in ready:
                    *lines, self._rest = (self._rest + os.read(self._signs, 65536)).split(b"\n")
                    self.signs += [line.decode() for line in lines]
                else:
                    what = "it has ended" if ready else f"nothing for {deadline_s:g} s"
                    raise AssertionError(f"expected sign {wanted!r}, {what}; got {self.signs}\n{running.said()}")

    def gate(self, name: str) -> None:
        """Makes a gate at which scripts wait; call it before they start."""
        os.mkfifo(self.folder / f"gate-{name}")
        self._gates[name] = os.open(self.folder / f"gate-{name}", os.O_RDWR | os.O_NONBLOCK)

    def open_gate(self, name: str, times: int = 1) -> None:
        """Lets so many waiting processes through, now or when they come."""
        os.write(self._gates[name], b"." * times)

    def result(self, name: str) -> Arrays:
        """What a script has left with `leave`."""
        with np.load(self.folder / f"{name}.npz") as stored:
            return {key: stored[key] for key in stored.files}


# ---- processes of the machine ----------------------------------------------------------------------------------------


@contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, as of now."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def is_server(pid: int) -> bool:
    """One of psctl's server processes."""
    with suppress(OSError):
        return b"ps.launch.server\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def wait_ended(pids: Sequence[int], deadline_s: float) -> list[int]:
    """Those that have not ended in time. They need not be our children."""
    deadline = time.monotonic() + deadline_s
    left = []
    for pid in pids:
        with suppress(ProcessLookupError), _pidfd(pid) as fd:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                left.append(pid)
    return left


def wait_until(what: str, true: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """For what nobody tells of: looks again and again."""
    deadline = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < deadline, f"after {deadline_s:g} s still not: {what}"
        time.sleep(LOOK_S)


def status(controller: str, key: Key | None = None) -> dict[str, Any]:
    """What the controller at "host:port" says of its cluster."""
    with channel(controller, key) as way:
        ask = way.unary_unary(f"/{SERVICE}/Status")
        found: dict[str, Any] = json.loads(pb.StatusReply.FromString(ask(b"", timeout=10.0)).json)
    return found


def assert_bytes_equal(left: Arrays, right: Arrays) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype and value.tobytes() == right[name].tobytes(), name
