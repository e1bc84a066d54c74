"""A controller without processes of its own: it listens, says who is missing, and ends with its job.

Its workers are started by hand, or by agents to which it hands the job that is submitted.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ps.addresses import is_every_address
from ps.config import RunConfig
from ps.control.jobs import WorkerEnd
from ps.control.service import ControlServer
from ps.key import Key
from ps.launch.ends import Failure, Outcome
from ps.launch.followed import Followed, Missing
from ps.launch.journal import Journal, make_log_dir, run_name
from ps.launch.options import LOG_DIR, cluster_environment
from ps.launch.rules import Rule
from ps.launch.save import save_command
from ps.launch.sinks import Sink, Started
from ps.launch.supervisor import Exit, Supervisor
from ps.launch.watch import TICK_S, Watch
from ps.launch.workers import Workers


@dataclass(frozen=True)
class ControllerOptions:
    """The flags of `psctl controller` that are not the run's."""

    host: str = "127.0.0.1"
    port: int = 0
    save: str | None = None
    log_dir: str = LOG_DIR
    quiet: bool = False
    key: Key | None = None


def run_controller(config: RunConfig, rules: list[Rule], sinks: Mapping[str, Sink], options: ControllerOptions) -> int:
    """Until the job is over: 0, or 1 when it failed. Call it in the main thread: it catches signals.

    Raises: ConfigError when the port cannot be had.
    """
    hold = options.save is not None
    control = ControlServer(config, host=options.host, port=options.port, hold=hold, takes_jobs=True, key=options.key)
    try:
        address = control.start()
        view = Followed(control, options.quiet)
        name = run_name(control.job)
        log_dir = make_log_dir(options.log_dir, name, view.note)
        dialled, port = address, address.rpartition(":")[2]
        if is_every_address(options.host):
            dialled, address = f"{socket.gethostname()}:{port}", f"{'[::1]' if '[' in address else '127.0.0.1'}:{port}"
        with Supervisor(view.line, view.note, log_dir) as supervisor:
            logs = "" if log_dir is None else f"; logs in {log_dir}"
            expected = f"{config.servers} servers, {config.workers} workers expected"
            view.note(f"controller listens at {control.address}: {expected}{logs}")
            view.note(f"for the others: PS_CONTROLLER={dialled} PS_JOB={control.job.hex()}")
            journal = Journal(sinks, view.note)
            journal.start(Started(name, log_dir, "", (), config.model_dump(mode="json"), time.time()))
            watch = Watch(control, rules, view, journal)
            return Daemon(options, config, control, address, view, supervisor, watch).execute()
    finally:
        control.close()


@dataclass
class Daemon:
    """One job. Everything happens in the thread that made it."""

    options: ControllerOptions
    config: RunConfig
    control: ControlServer
    address: str  # for processes of this machine
    view: Followed
    supervisor: Supervisor
    watch: Watch
    missing: Missing = field(default_factory=Missing)
    job: str = ""  # that was submitted, in words
    begun: bool = False
    ended: set[int] = field(default_factory=set)  # ranks of the submitted job whose end is known
    over_at: float = float("inf")  # workers must have left by then
    given_up: bool = False  # and some have not
    saved: Exit | None = None
    save_begun: bool = False
    refused_code: int = 0  # not 0: an agent could not start the script

    def __post_init__(self) -> None:
        self.workers = Workers(self.config, self.control, self.watch, self.view, self.runs, self.again)

    def execute(self) -> int:
        """The exit code."""
        while not self.is_over():
            for exit in self.supervisor.wait(TICK_S):
                self.saved = exit
            outcome, now = self.watch.look(), time.monotonic()
            self.look_at_job(now)
            self.missing.tell(self.watch.status, now, self.view)
            if self.supervisor.signals and outcome is None:
                self.control.stop(f"its controller got {signal.Signals(self.supervisor.signals[0]).name}")
            if outcome is not None:
                self.on_stopped(outcome, now)
        return self.report()

    def is_over(self) -> bool:
        """Everybody has been told, and has ended."""
        if self.given_up:
            return True
        settled = not self.begun or self.workers.failure is not None or self.is_settled
        return settled and self.control.wait(0) and not self.supervisor.running

    @property
    def is_settled(self) -> bool:
        """Every worker of the submitted job has ended, and it is known what that means."""
        return len(self.ended) == self.config.workers and not self.workers.unclear

    # ---- the submitted job ------------------------------------------------------------------------------------------

    def look_at_job(self, now: float) -> None:
        """What agents and those who submit have brought."""
        ends, submitted = self.control.look_at_job(), self.watch.status["submitted"]
        if (submitted is None) == bool(self.job):
            self.job = "" if submitted is None else shlex.join([submitted["script"], *submitted["args"]])
            self.view.here(f"submitted by {submitted['by']}: {self.job}" if submitted else "the job is withdrawn")
            if submitted is not None:
                self.watch.journal.submitted(submitted["script"], submitted["args"], submitted["by"])
        self.begun = self.begun or bool(submitted and submitted["begun"])
        for end in ends:
            self.take(end)
        if self.begun:
            self.workers.look(now)
        if self.workers.failure is not None and self.watch.outcome is None:
            self.control.stop(self.workers.failure.why, failed=True)

    def take(self, end: WorkerEnd) -> None:
        """A worker of an agent's has ended."""
        self.begun = True
        self.ended.add(end.rank)
        state = next(worker["state"] for worker in self.watch.workers if worker["rank"] == end.rank)
        if end.refused:
            self.workers.failure = self.workers.failure or Failure(f"worker {end.rank}: {end.refused}")
            self.refused_code = 2  # as of any wrong argument
        elif not end.lost:
            exit = Exit(f"worker {end.rank}", end.code, end.asked, end.cpu_s, list(end.tail))
            self.workers.take(end.rank, exit)
        elif state == "done" and self.workers.failure is None:
            why = f"worker {end.rank}: its agent on {end.agent} was lost after its last clock"
            self.workers.failure = Failure(why)
        elif self.watch.outcome is None or not self.watch.outcome[1]:
            self.workers.lose(end.rank, f"its agent on {end.agent} was lost")

    def runs(self, rank: int) -> bool:
        """An agent has it, as of the last look."""
        agents = self.watch.status["agents"]
        return any(agent["rank"] == rank and agent["state"] == "running" for agent in agents)

    def again(self, rank: int, why: str) -> bool:
        """Under `wait` another agent may take its place."""
        if self.config.on_worker_loss != "wait":
            return False
        self.ended.discard(rank)
        self.control.reopen(rank)
        self.view.note(f"worker {rank}: {why}; waiting {self.config.restart_s:g} s for another agent to take its place")
        return True

    # ---- the end ----------------------------------------------------------------------------------------------------

    def on_stopped(self, outcome: Outcome, now: float) -> None:
        """Workers have the run's timeout to find out; then the values are saved, and the servers may end."""
        if self.over_at == float("inf"):
            self.over_at = now + self.config.timeout_s
        left = [f"worker {one['rank']}" for one in self.watch.workers if one["state"] == "running"]
        overdue = now >= self.over_at and not self.control.wait(0)
        impatient = overdue or len(self.supervisor.signals) > 1
        if self.options.save is not None and not outcome[1] and not self.save_begun and (impatient or not left):
            self.save()
        if self.options.save is None or outcome[1] or self.saved is not None:
            self.control.release()
            if impatient:
                self.given_up = True
                self.view.note(f"not waiting any longer for {', '.join(left) or 'the last goodbye'}")

    def save(self) -> None:
        """As `psctl run` does, while the servers are held."""
        assert self.options.save is not None
        self.save_begun = True
        absent = [f"server {one['shard']}" for one in self.watch.status["servers"] if one["state"] == "expected"]
        if absent or all(one["state"] == "expected" for one in self.watch.workers):
            who = ", ".join(absent) or "any worker"
            self.saved = Exit("save", 1, False, 0.0, [f"there are no values: the job has ended before {who} came"])
            return
        env = cluster_environment(os.environ, self.address, self.control.job, workers=1, key=self.options.key)
        self.supervisor.start("save", save_command(self.options.save), env)

    def report(self) -> int:
        """Says how it ended, here and to who follows; the exit code."""
        self.watch.look()
        reason, failed = self.control.outcome or self.watch.outcome or ("the controller was closed", True)
        if not failed and self.saved is not None and self.saved.code:
            self.workers.failure = self.workers.failure or Failure("the values could not be saved", self.saved)
        failure = self.workers.verdict()
        why = reason if failure is None else failure.why
        code = int(failed) if failure is None else self.refused_code or failure.code
        seconds = self.watch.seconds
        self.view.progress(self.watch.status, seconds)
        last_words = [] if failure is None else failure.last_words()
        self.control.end_job(why, failed, code, seconds, last_words)
        self.watch.end(reason=why, exit_code=code, restarts={})
        if failed or self.workers.failure is None:
            self.view.here(f"the job has {'failed' if failed else 'ended'}: {reason}")
        else:
            self.view.here(f"the job has failed: {why}")
            print(*last_words, sep="\n", file=sys.stderr, flush=True)
        return int(failed or self.workers.failure is not None)
