"""An agent: waits for the job that is submitted to its controller, and runs one worker of it, whose script it has."""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from ps.control import control_pb2 as pb
from ps.control.agents import AgentLink
from ps.errors import ConfigError
from ps.key import Key
from ps.launch.journal import make_log_dir
from ps.launch.options import check_script, cluster_environment, worker_environment
from ps.launch.supervisor import Exit, Supervisor
from ps.launch.view import Plain
from ps.launch.watch import TICK_S
from ps.processes import JOIN_S, job_id

IDLE_S = 1.0  # an agent without a job looks so often whether its controller is still there


def run_agent(controller: str, directory: str, log_dir: str, key: Key | None) -> int:
    """Until the job is over: 0 however it ended, as its exit code is told elsewhere; 1 when the controller is gone.

    Call it in the main thread: it catches signals. Raises: ConfigError, DeadlineError, StoppedError, as AgentLink.
    """
    home, logs, view = checked_directory(directory), os.path.abspath(log_dir), Plain()
    os.chdir(home)  # a script finds its data where the agent has it
    link = AgentLink(controller, job_id(), str(home), JOIN_S, key)
    try:
        view.note(f"agent on {socket.gethostname()}: waits for a job of {controller}; runs scripts of {home}")
        while not link.gone:
            frame = link.take(IDLE_S)
            if frame is not None and frame.HasField("start"):
                return _Worker(link, view, home, logs, frame.start, key).run()
            if frame is not None and frame.HasField("goodbye"):
                view.note(f"the job is over: {frame.goodbye.reason.partition(chr(10))[0]}")
                return 0
        view.note(link.gone)
        return 1
    finally:
        link.close()


def checked_directory(path: str) -> Path:
    """Without links. Raises: ConfigError."""
    if not os.path.isdir(path):
        raise ConfigError(f"--directory: expected a folder with scripts, got {path!r}, which is none")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"--directory: expected a folder with scripts, got {path!r}, which may not be read")
    return Path(path).resolve()


def script_in(home: Path, script: str) -> Path:
    """The file that the name means, links followed. Raises: ConfigError unless it is in the agent's directory."""
    who = f"the agent on {socket.gethostname()}: SCRIPT"
    expected = f"expected a Python file in its directory {home}"
    remedy = "put it there, or start the agent with another --directory"
    if ".." in Path(script).parts:
        raise ConfigError(f"{who}: {expected}, got {script!r} with a `..`; name it from that directory")
    try:
        found = (home / script).resolve()
        if found.is_symlink():  # from Python 3.13 on: before, it is a RuntimeError
            raise OSError("links in a circle")
    except (OSError, RuntimeError, ValueError) as error:  # or a name that is none
        raise ConfigError(f"{who}: {expected}, got {script!r} ({error}); {remedy}") from None
    if not found.is_relative_to(home):
        raise ConfigError(f"{who}: {expected}, got {script!r}, which is {found}; {remedy}")
    try:
        check_script(who, str(found))
    except ConfigError as error:
        raise ConfigError(f"{error}; {remedy}") from None
    return found


@dataclass
class _Worker:
    """The one worker of this agent."""

    link: AgentLink
    view: Plain
    home: Path
    logs: str
    job: pb.Start
    key: Key | None

    def run(self) -> int:
        """The agent's exit code."""
        rank, job = self.job.rank, self.link.job.hex()
        try:
            script = script_in(self.home, self.job.script)
        except ConfigError as error:
            self.view.note(str(error))
            self.link.exited(pb.Exited(code=2, refused=str(error)))
            return self.wait_for_goodbye()
        log_dir = make_log_dir(self.logs, f"{job[:6]}-worker-{rank}", self.view.note)
        logs = "" if log_dir is None else f"; logs in {log_dir}"
        self.view.note(f"job {job[:6]}: worker {rank} of {self.job.size} runs {script.relative_to(self.home)}{logs}")
        env = cluster_environment(os.environ, self.link.address, self.link.job, self.job.local_size, self.key)
        local = (self.job.local_rank, self.job.local_size)
        env = worker_environment(env, rank, self.job.size, local)
        with Supervisor(self.view.line, self.view.note, log_dir) as supervisor:
            supervisor.start(f"worker {rank}", [sys.executable, str(script), *self.job.args], env)
            return self.follow(supervisor)

    def follow(self, supervisor: Supervisor) -> int:
        """Until the controller says goodbye and the worker has ended."""
        over = told = False
        while supervisor.running or not (over or self.link.gone):
            for exit in supervisor.wait(TICK_S):
                self.tell(exit)
            if supervisor.signals:
                return self.interrupted(supervisor)
            frame = self.link.take(0)
            if frame is not None and frame.HasField("goodbye"):
                over = True
                supervisor.terminate()
                self.view.note(f"the job is over: {frame.goodbye.reason.partition(chr(10))[0]}")
            if self.link.gone and not over and not told:
                told = True
                self.view.note(f"{self.link.gone}; the worker goes on without it")
        return 0 if over else 1

    def tell(self, exit: Exit) -> None:
        """Its end, with its last words."""
        self.view.note(f"{exit.name}: {exit.words}")
        self.link.exited(pb.Exited(code=exit.code, tail=exit.tail, asked=exit.asked, cpu_s=exit.cpu_s))

    def interrupted(self, supervisor: Supervisor) -> int:
        """Ctrl-C or SIGTERM at the agent: its worker is lost to the others, who are told why."""
        supervisor.terminate()
        while supervisor.running:
            for exit in supervisor.wait(TICK_S):
                # Not `asked`: nobody of the job has asked for it.
                self.link.exited(pb.Exited(code=exit.code, tail=exit.tail, cpu_s=exit.cpu_s))
            if len(supervisor.signals) > 1:
                supervisor.kill()
        number = supervisor.signals[0]
        self.view.note(f"ended by {signal.Signals(number).name}")
        return 128 + number

    def wait_for_goodbye(self) -> int:
        while not self.link.gone:
            frame = self.link.take(IDLE_S)
            if frame is not None and frame.HasField("goodbye"):
                return 0
        return 1
