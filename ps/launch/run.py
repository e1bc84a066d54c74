"""`psctl run`: the controller in this process, servers and workers as its children, from the first to the last."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ps.config import RunConfig
from ps.errors import ConfigError, Error
from ps.launch.ends import End, Failure, blamed, ended, failed, judge
from ps.launch.journal import Journal
from ps.launch.options import (
    RunOptions,
    cluster_environment,
    ignored_variables,
    server_environment,
    worker_environment,
)
from ps.launch.rules import Rule
from ps.launch.supervisor import Exit, Supervisor
from ps.launch.view import View, open_view
from ps.launch.watch import TICK_S, Watch, Watched

SETTLE_S = 2.0  # from a worker's exit until its last message must have arrived
SERVER = (sys.executable, "-P", "-m", "ps.launch.server")  # -P: nothing of the user's folder shadows a module


class Control(Watched, Protocol):
    """What the launcher needs of `ps.control.service.ControlServer`."""

    @property
    def job(self) -> bytes: ...
    def start(self) -> str: ...
    def release(self) -> None: ...
    def worker_lost(self, rank: int, why: str) -> None: ...
    def server_lost(self, shard: int, why: str) -> None: ...
    def close(self) -> None: ...


@dataclass
class Run:
    """One run. Everything happens in the thread that made it."""

    options: RunOptions
    config: RunConfig
    control: Control
    view: View
    supervisor: Supervisor
    journal: Journal
    watch: Watch
    server: Sequence[str]
    failure: Failure | None = None
    loss: Failure | None = None  # of a worker that the others went on without
    env: dict[str, str] = field(default_factory=dict)
    exits: dict[int, Exit] = field(default_factory=dict)  # rank -> its last
    unclear: dict[int, float] = field(default_factory=dict)  # rank of an ended worker -> when to judge at the latest
    restarts: dict[int, int] = field(default_factory=dict)
    others: dict[str, Exit] = field(default_factory=dict)  # servers, evaluator, save
    overdue_at: float = float("inf")  # the job is over: workers must have ended by then
    blamed_at: float = 0.0  # the job has failed: so long the one to blame may take to end
    told_late: bool = False
    silent: dict[int, float] = field(default_factory=dict)  # rank that is lost while its process goes on -> since when
    given_up: set[int] = field(default_factory=set)  # those that were told

    @property
    def workers_left(self) -> bool:
        return bool(self.unclear) or any(name.startswith("worker") for name in self.supervisor.running)

    def execute(self) -> int:
        """From the start of the processes to the end of the last; the exit code."""
        try:
            self.start()
            if self.pump(lambda: not self.workers_left) and self.pump(self.is_settled, SETTLE_S):
                self.end_well()
        except OSError as error:
            self.failure = self.failure or Failure(f"{type(error).__name__}: {error}")
        self.end_all()
        return self.report()

    def start(self) -> None:
        """Servers first: a worker's first message finds them."""
        address = self.control.start()
        self.env = cluster_environment(os.environ, address, self.control.job, self.config.workers)
        for shard in range(self.config.servers):
            env = server_environment(self.env, shard, self.options.script)
            self.supervisor.start(f"server {shard}", self.server, env)
        for rank in range(self.config.workers):
            self.start_worker(rank)
        if self.options.evaluator is not None:
            env = {**self.env, "PS_ROLE": "reader"}
            self.supervisor.start("evaluator", [sys.executable, self.options.evaluator], env)

    def start_worker(self, rank: int) -> None:
        argv = [sys.executable, self.options.script, *self.options.args]
        self.supervisor.start(f"worker {rank}", argv, worker_environment(self.env, rank, self.config.workers))

    def pump(self, done: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Lets things happen until `done()`; False when the run is to end first, or the time is up."""
        deadline = time.monotonic() + seconds
        self.look()
        while not done():
            left = deadline - time.monotonic()
            if self.failure is not None or self.supervisor.signals or left <= 0:
                return False
            for exit in self.supervisor.wait(min(TICK_S, left)):
                self.take(exit)
            self.look()
        return self.failure is None and not self.supervisor.signals

    def is_settled(self) -> bool:
        """The controller knows, too, that all workers are through."""
        return self.watch.outcome is not None

    # ---- what happens -----------------------------------------------------------------------------------------------

    def take(self, exit: Exit) -> None:
        """A child has ended."""
        kind, _, number = exit.name.partition(" ")
        if kind == "worker":
            self.exits[int(number)] = exit
            self.unclear[int(number)] = time.monotonic() + SETTLE_S
            return
        self.others[exit.name] = exit
        if kind == "server" and not exit.asked and self.failure is None:
            outcome = self.watch.look()
            if exit.code != 0 or outcome is None:  # else the controller has told it that all is over
                self.control.server_lost(int(number), exit.words)
                outcome = self.watch.look()
                reason = outcome[0] if outcome is not None and outcome[1] else ""  # it names slices
                self.failure = Failure(reason or f"server {number} was lost ({exit.words})", exit)
        elif kind == "evaluator" and failed(exit):
            self.view.note(f"the evaluator has failed ({exit.words}); the run goes on without it")

    def look(self) -> None:
        """Follows the controller, and judges the workers that have ended."""
        outcome, now = self.watch.look(), time.monotonic()
        self.note_losses(now)
        for rank in list(self.unclear):
            self.judge(rank, now)
        if outcome is not None and outcome[1]:
            self.on_failed(outcome[0], now)
        elif outcome is not None:
            self.on_stopped(now)

    def note_losses(self, now: float) -> None:
        """Workers that the controller has given up though their processes live: a lease ran out."""
        for worker in self.watch.workers:
            rank = worker["rank"]
            if worker["state"] != "lost" or f"worker {rank}" not in self.supervisor.running:
                self.silent.pop(rank, None)
            elif now - self.silent.setdefault(rank, now) > SETTLE_S:
                self.note_loss(rank)  # an end of its process would have been seen by now

    def note_loss(self, rank: int) -> None:
        """Says once that a living worker was lost."""
        if rank not in self.given_up:
            self.given_up.add(rank)
            why = f"worker {rank}: no progress for {self.config.lease_s:g} s"
            self.view.note(f"{why}; {'it may come back' if self.config.on_worker_loss == 'wait' else 'lost'}")
            if self.config.on_worker_loss == "drop":
                self.loss = self.loss or Failure(f"{why}; it was lost")

    def judge(self, rank: int, now: float) -> None:
        """Finishes, restarts or gives up a worker whose process has ended."""
        exit = self.exits[rank]
        state = next(worker["state"] for worker in self.watch.workers if worker["rank"] == rank)
        end, why = judge(exit, state, self.watch.outcome, now >= self.unclear[rank])
        if end is End.UNCLEAR or self.failure is not None:
            return
        del self.unclear[rank]
        failure = Failure(f"worker {rank}: {why}", exit)
        if end is End.BROKEN:
            self.failure = failure
        elif end is End.LOST:
            self.control.worker_lost(rank, why)
            if self.restarts.get(rank, 0) < self.options.max_restarts:
                self.restarts[rank] = self.restarts.get(rank, 0) + 1
                again = f"restart {self.restarts[rank]} of {self.options.max_restarts}"
                self.view.note(f"worker {rank}: {why}; {again}")
                self.start_worker(rank)
            elif self.config.on_worker_loss == "wait":
                self.failure = failure  # nobody will bring it back, so there is nothing to wait for
            else:
                if self.loss is None or self.loss.exit is None:
                    self.loss = failure  # now with its last words
                self.view.note(f"worker {rank}: {why}; the others go on without it (--on-worker-loss drop)")

    def on_failed(self, reason: str, now: float) -> None:
        """The one to blame may still be printing its traceback."""
        rank = blamed(reason)
        self.blamed_at = self.blamed_at or now + self.options.grace_s
        if f"worker {rank}" not in self.supervisor.running or now >= self.blamed_at:
            exit = None if rank is None else self.exits.get(rank)
            lost = [worker["rank"] for worker in self.watch.workers if worker["state"] == "lost"]
            first = self.loss.exit if self.loss is not None and rank in lost else exit
            self.failure = self.failure or Failure(reason, first)

    def on_stopped(self, now: float) -> None:
        """The job is over: who is through may take its time, the others have the run's timeout to find out."""
        if self.overdue_at == float("inf"):
            self.overdue_at = now + self.config.timeout_s
        states = {f"worker {worker['rank']}": worker["state"] for worker in self.watch.workers}
        running = {name for name in self.supervisor.running if states.get(name, "done") != "done"}
        lost = {name for name in running if states[name] == "lost"}  # it hangs, or nobody hears it
        for name in lost:
            self.note_loss(int(name.partition(" ")[2]))
        self.supervisor.kill(lost)
        if running and now >= self.overdue_at and not self.told_late:
            self.told_late = True
            self.supervisor.terminate(running)
            self.view.note(
                f"{', '.join(sorted(running))}: not ended {self.config.timeout_s:g} s after the job, so it is made to; "
                "expected its loop to look at client.should_stop"
            )

    # ---- the end ----------------------------------------------------------------------------------------------------

    def end_well(self) -> None:
        """Saves the values and lets the evaluator have its last look; then the servers may end."""
        if self.options.save is not None:
            self.supervisor.start("save", [sys.executable, "-P", "-m", "ps.launch.save", self.options.save], self.env)
            if not self.pump(lambda: "save" in self.others):
                return
            if self.others["save"].code:
                self.failure = Failure("the values could not be saved", self.others["save"])
        if not self.pump(lambda: "evaluator" not in self.supervisor.running, self.config.timeout_s):
            if self.failure is not None or self.supervisor.signals:
                return
            self.view.note(f"the evaluator has not ended {self.config.timeout_s:g} s after the job, so it is made to")
            self.supervisor.terminate(["evaluator"])
            if not self.pump(lambda: "evaluator" not in self.supervisor.running):
                return
        self.control.release()
        # The controller tells the servers that all is over; who does not hear it is told by a signal.
        self.pump(lambda: not self.supervisor.running, self.options.grace_s)

    def end_all(self) -> None:
        """SIGTERM to everybody, SIGKILL after the grace time or at a second Ctrl-C."""
        signals = len(self.supervisor.signals)
        if signals or self.failure is not None:  # the second stop of a job does nothing
            self.control.stop(self.failure.why if self.failure else "interrupted", failed=True)
        if signals and self.supervisor.running:
            self.view.note("interrupted; ending everything (once more: at once)")
        self.control.release()
        self.supervisor.terminate()
        if signals > 1:
            self.supervisor.kill()
        while self.supervisor.running:
            for exit in self.supervisor.wait(self.options.grace_s):
                if not exit.name.startswith("worker"):
                    self.others[exit.name] = exit
            if len(self.supervisor.signals) > signals:
                self.supervisor.kill()

    def report(self) -> int:
        """Says how it ended, a traceback last; the exit code."""
        failure = self.failure
        if failure is None and self.loss is not None:
            failure = Failure(f"{self.loss.why}; the others have finished", self.loss.exit)
        evaluator = self.others.get("evaluator")
        if failure is None and evaluator is not None and failed(evaluator):
            failure = Failure("the evaluator has failed", evaluator)
        bad = next((exit for name, exit in self.others.items() if name.startswith("server") and not ended(exit)), None)
        if failure is None and bad is not None:
            failure = Failure(f"{bad.name} did not end in order", bad)
        outcome = self.watch.look()
        reason = outcome[0] if outcome is not None else "the workers have ended"
        code = 0 if failure is None else failure.code
        if self.supervisor.signals:
            failure, code, reason = None, 128 + self.supervisor.signals[0], "interrupted"
        seconds = self.watch.seconds
        cpu = {} if evaluator is None else {"evaluator_cpu_s": round(evaluator.cpu_s, 3)}
        clocks = [worker["clock"] for worker in self.watch.workers]
        restarts = {str(rank): count for rank, count in self.restarts.items()}
        why = reason if failure is None else failure.why
        self.journal.end(reason=why, exit_code=code, seconds=round(seconds, 3), clocks=clocks, restarts=restarts, **cpu)
        self.view.close()
        if evaluator is not None and not self.options.quiet:
            self.view.note(f"the evaluator used {evaluator.cpu_s:.1f} s of CPU beside the run's {seconds:.1f} s")
        if failure is None and not (self.options.quiet and code == 0):
            self.view.note(f"ended after {seconds:.1f} s: {reason.partition(chr(10))[0]}")
        elif failure is not None:
            self.view.note(f"failed after {seconds:.1f} s: {failure.why.partition(chr(10))[0]}")
            print(*failure.last_words(), sep="\n", file=sys.stderr, flush=True)
        return code


def run_cluster(
    options: RunOptions,
    *,
    make_control: Callable[[RunConfig], Control] | None = None,
    server: Sequence[str] = SERVER,
) -> int:
    """Runs a whole cluster on this machine; the exit code: 0, that of the first failure (128 + signal), or 2 for a
    wrong option.

    Call it in the main thread: it catches SIGINT, SIGTERM and SIGHUP until it returns. Two tests' doors: another
    control server, another command for servers.
    """
    try:
        config, rules = options.check()
    except ConfigError as error:
        print(f"psctl run: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    view = open_view(options.quiet)
    control: Control | None = None
    try:
        control = (make_control or _control_server)(config)
        return _run(options, config, rules, control, view, server)
    except (Error, OSError) as error:
        view.close()
        print(f"psctl run: {error}", file=sys.stderr)
        return 1
    finally:
        view.close()
        if control is not None:
            control.close()


def _control_server(config: RunConfig) -> Control:
    from ps.control.service import ControlServer  # late: it brings grpc

    return ControlServer(config, hold=True)


def _run(
    options: RunOptions, config: RunConfig, rules: list[Rule], control: Control, view: View, server: Sequence[str]
) -> int:
    log_dir = _make_log_dir(options.log_dir, control.job, view)
    if not options.quiet:
        servers, workers = (
            f"{n} {what}{'s' * (n > 1)}" for n, what in ((config.servers, "server"), (config.workers, "worker"))
        )
        logs = "" if log_dir is None else f"; logs in {log_dir}"
        view.note(f"{servers}, {workers}, {config.consistency}, {config.optimizer}{logs}")
    for name in ignored_variables(os.environ):
        view.note(f"{name} is not used; give --{name[3:].lower().replace('_', '-')} to psctl run")
    journal = Journal(None if log_dir is None else log_dir / "run.jsonl", view.note)
    journal.start(config.model_dump(mode="json"), options.script, options.args)
    with Supervisor(view.line, view.note, log_dir, options.grace_s) as supervisor:
        watch = Watch(control, rules, view, journal)
        return Run(options, config, control, view, supervisor, journal, watch, server).execute()


def _make_log_dir(parent: str, job: bytes, view: View) -> Path | None:
    """A folder of this run's own; None, said once, where it cannot be made."""
    path = Path(parent) / f"{time.strftime('%Y%m%d-%H%M%S')}-{job.hex()[:6]}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        view.note(
            f"no logs and no run.jsonl: {path} cannot be made: {error.strerror or error}; --log-dir names another"
        )
        return None
    return path
