"""Child processes done right: a process group each, no orphans, no polling, exit codes in words.

Everything here is called by one thread, which must live as long as the children (the main thread): the kernel takes
the end of the thread that started a child for the end of its parent.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ps.launch import guard
from ps.launch.output import LogFile, Output, Stream

GRACE_S = 5.0  # from SIGTERM to SIGKILL
CLOSE_S = 10.0  # from SIGKILL to the end: only a process that hangs in the kernel needs longer
DRAIN_S = 1.0  # for what an ended child has left in its pipe; a process that escaped its group may hold it open
CATCH = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # each of them ends the run

_GUARD = (sys.executable, "-I", "-S", guard.__file__)


@dataclass(frozen=True)
class Exit:
    """How a child ended."""

    name: str
    code: int  # below 0: the signal that killed it
    asked: bool  # it was told to end
    cpu_s: float  # user + system, its own waited-for children included
    tail: list[str]  # its last lines
    peak_mb: float = 0.0  # the most memory that it had, 10^6 bytes; 0: not known

    @property
    def words(self) -> str:
        """`exit code 1`, `killed by SIGKILL`."""
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            return f"killed by {signal.Signals(-self.code).name}"
        except ValueError:  # a real-time signal
            return f"killed by signal {-self.code}"

    @property
    def shell_code(self) -> int:
        """As shells give it: 128 + signal."""
        return self.code if self.code >= 0 else 128 - self.code


@dataclass(eq=False)
class Child:
    """A running child."""

    name: str
    process: subprocess.Popen[bytes]
    pidfd: int
    stream: Stream
    asked: bool = False
    kill_at: float = float("inf")

    def signal(self, number: int) -> None:
        """To its whole group. The group exists: its leader is not reaped yet."""
        with suppress(ProcessLookupError, PermissionError):  # PermissionError: one that changed its user
            os.killpg(self.process.pid, number)


class Supervisor:
    """Starts children, collects their ends, ends them all. A context manager: nothing is left at its exit."""

    def __init__(
        self,
        show: Callable[[str, str], None],
        warn: Callable[[str], None],
        log_dir: Path | None,
        grace_s: float = GRACE_S,
    ) -> None:
        """show(name, line) gets each line and warn(text) what goes wrong with logs, both in a thread of their own.

        log_dir: None for no log files.
        """
        self.signals: list[int] = []  # caught so far
        self.ended: list[Exit] = []  # in that order
        self._warn, self._log_dir, self._grace_s = warn, log_dir, grace_s
        self._children: dict[str, Child] = {}
        self._output = Output(show)
        self._selector = selectors.DefaultSelector()
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._wake_r = self._wake_w = self._wake_before = -1
        self._guard = subprocess.Popen(
            [*_GUARD, "watch"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._catch()

    @property
    def running(self) -> Collection[str]:
        """Names of the children that have not ended."""
        return self._children.keys()

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Starts a child in a group of its own, its output prefixed by `name`; gives its pid.

        Raises: OSError when no process can be made. An argv[0] that cannot be run is an exit with code 127.
        """
        assert name not in self._children, f"{name} runs already"
        read, write = os.pipe()
        try:
            process = subprocess.Popen(
                [*_GUARD, "start", str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,  # one pipe for both: the order in which it was written
                env=dict(env),
                process_group=0,
            )
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._tell_guard(f"+{process.pid}\n")
        log = None if self._log_dir is None else LogFile(self._log_dir / f"{name.replace(' ', '-')}.log", self._warn)
        child = Child(name, process, os.pidfd_open(process.pid), self._output.add(name, read, log))
        self._children[name] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        return process.pid

    def wait(self, timeout: float) -> list[Exit]:
        """The children that ended, as soon as there is one; empty after `timeout` seconds or a caught signal."""
        deadline = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            for child in self._children.values():
                if now >= child.kill_at:
                    child.kill_at = float("inf")
                    child.signal(signal.SIGKILL)
            next_kill = min((child.kill_at for child in self._children.values()), default=float("inf"))
            ready = self._selector.select(max(0.0, min(deadline, next_kill) - now))
            ended = [key.data for key, _ in ready if key.data is not None]
            if len(ended) < len(ready):
                with suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
            if ready or time.monotonic() >= deadline:
                return [self._reap(child) for child in ended]

    def terminate(self, names: Collection[str] | None = None) -> None:
        """SIGTERM to these (all without names); SIGKILL to their groups after the grace time. Does not wait."""
        for child in self._chosen(names):
            if not child.asked:
                child.asked, child.kill_at = True, time.monotonic() + self._grace_s
                child.signal(signal.SIGTERM)
                child.signal(signal.SIGCONT)  # a stopped one hears nothing else

    def kill(self, names: Collection[str] | None = None) -> None:
        """SIGKILL, at once."""
        for child in self._chosen(names):
            child.asked = True
            child.signal(signal.SIGKILL)

    def signal(self, name: str, number: int) -> None:
        """To a child and its group, as if it came from elsewhere; nothing where it has ended."""
        if name in self._children:
            self._children[name].signal(number)

    def close(self) -> None:
        """Kills what is left, reaps it, gives the signals back."""
        self.kill()
        deadline = time.monotonic() + CLOSE_S
        while self._children and (left := deadline - time.monotonic()) > 0:
            self.wait(left)
        if self._children:
            self._warn(f"{', '.join(self._children)}: SIGKILL has not ended it in {CLOSE_S:g} s; it is left behind")
        self._output.close()
        assert self._guard.stdin is not None
        with suppress(OSError):
            self._guard.stdin.close()
        self._guard.wait()
        self._selector.close()
        self._give_back()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chosen(self, names: Collection[str] | None) -> list[Child]:
        return [child for name, child in self._children.items() if names is None or name in names]

    def _reap(self, child: Child) -> Exit:
        """What is left of the group is killed first: a leader that is not reaped keeps its number from others."""
        child.signal(signal.SIGKILL)
        self._tell_guard(f"-{child.process.pid}\n")
        _, status, usage = os.wait4(child.process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        child.process.returncode = code  # else Popen warns of a process that nobody waited for
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        del self._children[child.name]
        child.stream.ended.wait(DRAIN_S)
        cpu_s, peak_mb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6
        self.ended.append(exit := Exit(child.name, code, child.asked, cpu_s, list(child.stream.tail), peak_mb))
        return exit

    def _tell_guard(self, line: str) -> None:
        assert self._guard.stdin is not None
        with suppress(OSError):  # it was killed: the kernel's own signal to the children remains
            self._guard.stdin.write(line.encode())
            self._guard.stdin.flush()

    # ---- signals ----------------------------------------------------------------------------------------------------

    def _catch(self) -> None:
        """Signals become entries of `signals` and end a `wait`, which an exception in mid-air would not do safely."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread only
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._wake_before = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        self._selector.register(self._wake_r, selectors.EVENT_READ, None)
        for number in CATCH:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # under nohup: it outlives its terminal
            self._before[number] = signal.signal(number, lambda number, _: self.signals.append(number))

    def _give_back(self) -> None:
        if self._wake_r >= 0:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wake_before)
            os.close(self._wake_r)
            os.close(self._wake_w)
            self._wake_r = -1
