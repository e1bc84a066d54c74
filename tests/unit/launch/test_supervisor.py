"""Real children: prefixes, logs, exit codes, groups, and that nothing is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ps.launch.output import LogFile, Stream, last_words
from ps.launch.supervisor import Exit, Supervisor
from tests.unit.launch.fake import CHECKOUT

DEADLINE_S = 20.0


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def ends(supervisor: Supervisor, count: int = 1) -> list[Exit]:
    """The next `count` exits."""
    found: list[Exit] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"still running: {list(supervisor.running)}"
        found += supervisor.wait(left)
    return found


class Seen:
    """What the supervisor showed."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def show(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def of(self, name: str) -> list[str]:
        return [line for who, line in self.lines if who == name]


def gone(pid: int) -> bool:
    """Waits for the process to end; it may be nobody's child here, and may be gone already."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], DEADLINE_S)[0])
    finally:
        os.close(pidfd)


def until_printed(seen: Seen, supervisor: Supervisor, name: str) -> None:
    """Waits for the child's first line."""
    deadline = time.monotonic() + DEADLINE_S
    while not seen.of(name):
        assert time.monotonic() < deadline and supervisor.wait(0.01) == []


def test_lines_are_named_and_logged_raw(tmp_path: Path) -> None:
    seen = Seen()
    code = (
        "import sys; sys.stdout.write('one\\r\\ntwo \\xe9'); sys.stdout.flush(); sys.stderr.write(' 1%\\r 99%\\nend')"
    )
    with Supervisor(seen.show, seen.notes.append, tmp_path / "deep" / "logs") as supervisor:
        supervisor.start("worker 2", python(code), {**os.environ, "PYTHONIOENCODING": "utf8"})
        supervisor.start("server 0", python("print('three')"), os.environ)
        exits = {exit.name: exit for exit in ends(supervisor, 2)}
    assert seen.of("worker 2") == ["one", " 99%", "end"]  # a bar that overwrites its line: as a terminal shows it
    assert seen.of("server 0") == ["three"]
    assert exits["worker 2"].tail == seen.of("worker 2") and exits["worker 2"].code == 0
    assert (tmp_path / "deep/logs/worker-2.log").read_bytes() == "one\r\ntwo é 1%\r 99%\nend".encode()
    assert (tmp_path / "deep/logs/server-0.log").read_bytes() == b"three\n"
    assert seen.notes == []


def test_exit_codes_in_words(tmp_path: Path) -> None:
    seen = Seen()
    with Supervisor(seen.show, seen.notes.append, None) as supervisor:
        supervisor.start("a", python("raise SystemExit(7)"), os.environ)
        supervisor.start("b", python("import os; os.kill(os.getpid(), 9)"), os.environ)
        supervisor.start("c", ["/no/such/program"], os.environ)
        exits = {exit.name: exit for exit in ends(supervisor, 3)}
    assert (exits["a"].words, exits["a"].shell_code, exits["a"].asked) == ("exit code 7", 7, False)
    assert (exits["b"].words, exits["b"].shell_code) == ("killed by SIGKILL", 137)
    assert exits["c"].code == 127 and "cannot start /no/such/program: " in exits["c"].tail[0]
    assert exits["a"].cpu_s > 0


def test_children_have_a_group_and_nothing_of_ours_open() -> None:
    seen = Seen()
    code = "import os; print(os.getpgid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd')))"
    with Supervisor(seen.show, seen.notes.append, None) as supervisor:
        supervisor.start("a", python("print(0)"), os.environ)
        supervisor.start("b", python(code), os.environ)
        ends(supervisor, 2)
    assert seen.of("b") == ["True ['0', '1', '2', '3']"]  # 3 is the listing itself


def test_a_line_without_end_is_cut_and_a_child_never_waits() -> None:
    seen = Seen()
    with Supervisor(seen.show, seen.notes.append, None) as supervisor:
        supervisor.start("a", python("print('x' * 1_000_000)"), os.environ)
        ends(supervisor)
    assert sum(map(len, seen.of("a"))) == 1_000_000 and len(seen.of("a")) <= 20


def test_sigterm_then_sigkill_after_the_grace_time() -> None:
    seen = Seen()
    stubborn = "import os, signal; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); signal.pause()"
    with Supervisor(seen.show, seen.notes.append, None, grace_s=0.2) as supervisor:
        supervisor.start("meek", python("import signal; print(0, flush=True); signal.pause()"), os.environ)
        supervisor.start("stubborn", python(stubborn), os.environ)
        for name in ("meek", "stubborn"):
            until_printed(seen, supervisor, name)
        supervisor.terminate()
        exits = {exit.name: exit for exit in ends(supervisor, 2)}
    assert exits["meek"].words == "killed by SIGTERM" and exits["meek"].asked
    assert exits["stubborn"].words == "killed by SIGKILL"


def test_a_stopped_child_hears_sigterm() -> None:
    seen = Seen()
    with Supervisor(seen.show, seen.notes.append, None, grace_s=DEADLINE_S) as supervisor:
        pid = supervisor.start("a", python("import signal; print(0, flush=True); signal.pause()"), os.environ)
        until_printed(seen, supervisor, "a")
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        supervisor.terminate()
        assert ends(supervisor)[0].words == "killed by SIGTERM"


def test_grandchildren_end_with_their_group() -> None:
    """They hold the pipe open, too: the exit is told all the same."""
    seen = Seen()
    code = (
        "import subprocess, sys;"
        "print(subprocess.Popen([sys.executable, '-S', '-c', 'import signal; signal.pause()']).pid, flush=True)"
    )
    with Supervisor(seen.show, seen.notes.append, None) as supervisor:
        supervisor.start("a", python(code), os.environ)
        (exit,) = ends(supervisor)
        assert exit.code == 0 and gone(int(exit.tail[0]))


@pytest.mark.parametrize("guard_too", [False, True], ids=["", "guard killed before"])
def test_nothing_outlives_a_killed_supervisor(guard_too: bool) -> None:
    """Also without the guard, except for grandchildren: the kernel knows only children."""
    child = (
        "import os, signal, subprocess, sys; signal.signal(15, signal.SIG_IGN);"
        "grandchild = subprocess.Popen([sys.executable, '-S', '-c', 'import signal; signal.pause()']);"
        "print(os.getpid(), grandchild.pid, flush=True); signal.pause()"
    )
    script = (
        "import os, sys\nfrom ps.launch.supervisor import Supervisor\n"
        "supervisor = Supervisor(lambda name, line: print(supervisor._guard.pid, line, flush=True), print, None)\n"
        f"supervisor.start('worker 0', {python(child)!r}, os.environ)\nsupervisor.wait(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=CHECKOUT) as process:
        assert process.stdout is not None
        guard, pid, grandchild = map(int, process.stdout.readline().split())
        if guard_too:
            os.kill(guard, signal.SIGKILL)
        process.kill()
    assert gone(pid)
    if guard_too:
        os.kill(grandchild, signal.SIGKILL)
    assert gone(grandchild) and gone(guard)


def test_signals_end_a_wait_and_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = Seen()
    with Supervisor(seen.show, seen.notes.append, None) as supervisor:
        code = "import os, signal; os.kill(os.getppid(), 15); signal.pause()"
        supervisor.start("a", python(code), os.environ)
        started = time.monotonic()
        assert supervisor.wait(DEADLINE_S) == [] and time.monotonic() - started < DEADLINE_S
        assert supervisor.signals == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_runs_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        seen = Seen()
        with Supervisor(seen.show, seen.notes.append, None) as supervisor:
            code = "import os; os.kill(os.getppid(), 1); os.kill(os.getppid(), 15)"
            supervisor.start("a", python(code), os.environ)
            ends(supervisor)
            assert supervisor.signals == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_log_that_fails_warns_once_and_the_child_goes_on() -> None:
    notes: list[str] = []
    full = LogFile(Path("/dev/full"), notes.append)
    for _ in range(3):
        full.write(b"line\n")
    assert notes == ["/dev/full is not written any further: No space left on device; the run goes on"]
    nowhere = LogFile(Path("/dev/null/logs/a.log"), notes.append)
    nowhere.write(b"line\n")
    assert len(notes) == 2 and "/dev/null/logs/a.log" in notes[1]


def test_last_words_are_the_traceback_with_its_causes() -> None:
    first = ["Traceback (most recent call last):", "  line", "KeyError: 1"]
    joint = ["", "During handling of the above exception, another exception occurred:", ""]
    last = ["Traceback (most recent call last):", "  line", "ValueError: 2"]
    assert last_words(["a", *first, "b", *last]) == last
    assert last_words(["a", *first, *joint, *last]) == [*first, *joint, *last]
    assert last_words([str(number) for number in range(50)], lines=3) == ["47", "48", "49"]


def test_lines_of_bytes() -> None:
    stream = Stream("a", -1, None)
    assert stream.lines(b"on") == [] and stream.lines(b"e\n\ntw\xff") == ["one", ""]
    assert stream.lines(b"") == ["tw�"]
