"""`psctl run`: the controller in this process, servers and workers as its children, from the first to the last."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ps.colocated import endpoint
from ps.config import RunConfig
from ps.errors import ConfigError, Error
from ps.key import Key
from ps.launch.ends import Failure, ended, failed, missed
from ps.launch.figures import Figures
from ps.launch.journal import Journal, make_log_dir, run_name
from ps.launch.options import (
    Deed,
    RunOptions,
    cluster_environment,
    ignored_variables,
    server_environment,
    worker_environment,
)
from ps.launch.rules import Rule, progress
from ps.launch.save import save_command
from ps.launch.sinks import Sink, Started
from ps.launch.supervisor import Exit, Supervisor
from ps.launch.view import View, open_view
from ps.launch.watch import TICK_S, Watch, Watched
from ps.launch.workers import SETTLE_S, Workers

PEERS = "peers.json"  # in the folder of a traced run: what each worker and server has measured
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
    watch: Watch
    server: Sequence[str]
    key: Key | None
    env: dict[str, str] = field(default_factory=dict)
    restarts: dict[int, int] = field(default_factory=dict)
    others: dict[str, Exit] = field(default_factory=dict)  # servers, evaluator, save
    overdue_at: float = float("inf")  # the job is over: workers must have ended by then
    told_late: bool = False
    faults: list[Deed] = field(init=False)  # still to come

    def __post_init__(self) -> None:
        self.faults = list(self.options.faults)
        self.workers = Workers(
            self.config, self.control, self.watch, self.view, self.runs, self.restart, self.options.grace_s
        )

    @property
    def failure(self) -> Failure | None:
        """The first thing that went wrong, with whomever."""
        return self.workers.failure

    @failure.setter
    def failure(self, failure: Failure) -> None:
        self.workers.failure = failure

    @property
    def workers_left(self) -> bool:
        return bool(self.workers.unclear) or any(name.startswith("worker") for name in self.supervisor.running)

    def runs(self, rank: int) -> bool:
        return f"worker {rank}" in self.supervisor.running

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
        self.env = cluster_environment(os.environ, address, self.control.job, self.config.workers, self.key)
        self.env["PS_FIGURES_S"] = str(self.options.figures_s)
        for shard in range(self.config.servers):
            place = self.options.place(f"server {shard}")
            env = {**server_environment(self.env, shard, self.options.script), **place.env}
            # Beside the workers that are all here, no port at all; a host of its own has its names for itself.
            named = self.options.is_colocated and not place.command
            at = endpoint(self.control.job, shard) if named else f"{place.address}:0"
            record = ["--record", self.options.record] if self.options.record is not None else []
            self.supervisor.start(f"server {shard}", [*place.command, *self.server, "--listen", at, *record], env)
        for rank in range(self.config.workers):
            self.start_worker(rank)
        if self.options.evaluator is not None:
            env = {**self.env, "PS_ROLE": "reader"}
            self.supervisor.start("evaluator", [sys.executable, self.options.evaluator], env)

    def start_worker(self, rank: int) -> None:
        place = self.options.place(f"worker {rank}")
        argv = [*place.command, sys.executable, self.options.script, *self.options.args]
        env = {**worker_environment(self.env, rank, self.config.workers), **place.env}
        self.supervisor.start(f"worker {rank}", argv, env)

    def restart(self, rank: int, why: str) -> bool:
        """Starts a lost worker again, if it may be."""
        if self.restarts.get(rank, 0) >= self.options.max_restarts:
            return False
        self.restarts[rank] = self.restarts.get(rank, 0) + 1
        self.view.note(f"worker {rank}: {why}; restart {self.restarts[rank]} of {self.options.max_restarts}")
        self.start_worker(rank)
        return True

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
            self.workers.take(int(number), exit)
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
        self.workers.look(now)
        if outcome is not None and not outcome[1]:
            self.on_stopped(now)
        clock = min(progress(self.watch.status, 0.0).clocks, default=0)
        for due in [due for due in self.faults if outcome is None and due.clock <= clock]:
            self.faults.remove(due)
            due.do(self.supervisor)

    def on_stopped(self, now: float) -> None:
        """The job is over: who is through may take its time, the others have the run's timeout to find out."""
        if self.overdue_at == float("inf"):
            self.overdue_at = now + self.config.timeout_s
        states = {f"worker {worker['rank']}": worker["state"] for worker in self.watch.workers}
        running = {name for name in self.supervisor.running if states.get(name, "done") != "done"}
        lost = {name for name in running if states[name] == "lost"}  # it hangs, or nobody hears it
        for name in lost:
            self.workers.note_loss(int(name.partition(" ")[2]))
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
            self.supervisor.start("save", save_command(self.options.save), self.env)
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
        # The controller tells the servers that all is over; who does not hear it is told by a signal. Those that record
        # have more to write.
        patience_s = self.options.grace_s if self.options.record is None else self.config.timeout_s
        self.pump(lambda: not self.supervisor.running, patience_s)

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
        failure = self.workers.verdict()
        evaluator = self.others.get("evaluator")
        if failure is None and evaluator is not None and failed(evaluator):
            failure = Failure("the evaluator has failed", evaluator)
        bad = next((exit for name, exit in self.others.items() if name.startswith("server") and not ended(exit)), None)
        if failure is None and bad is not None:
            failure = Failure(f"{bad.name} did not end in order", bad)
        elif failure is not None and failure.exit is None:  # the controller has heard of a lost server before us
            lost = next((e for n, e in self.others.items() if failure.why.startswith(f"{n} was lost")), None)
            failure = failure if lost is None or ended(lost) else Failure(failure.why, lost)
        outcome = self.watch.look()
        reason = outcome[0] if outcome is not None else "the workers have ended"
        if self.faults:
            left, why = [fault.words for fault in self.faults], reason if failure is None else failure.why
            why = missed(len(self.options.faults), left, self.watch.clocks, why)
            failure = Failure(why, None if failure is None else failure.exit)
        code = 0 if failure is None else failure.code
        if self.supervisor.signals:
            failure, code, reason = None, 128 + self.supervisor.signals[0], "interrupted"
        seconds = self.watch.seconds
        restarts = {str(rank): count for rank, count in self.restarts.items()}
        why = reason if failure is None else failure.why
        self.watch.end(reason=why, exit_code=code, restarts=restarts, processes=used(self.supervisor.ended))
        self.view.close()
        if evaluator is not None and not self.options.quiet:
            self.view.note(f"the evaluator used {evaluator.cpu_s:.1f} s of CPU beside the run's {seconds:.1f} s")
        if failure is None and not (self.options.quiet and code == 0):
            self.view.note(f"ended after {seconds:.1f} s: {reason.partition(chr(10))[0]}")
        elif failure is not None:
            self.view.note(f"failed after {seconds:.1f} s: {failure.why.partition(chr(10))[0]}")
            print(*failure.last_words(), sep="\n", file=sys.stderr, flush=True)
        return code


def used(exits: Iterable[Exit]) -> dict[str, dict[str, float]]:
    """By process: seconds of processor time, of all its lives together, and the most memory that one of them had."""
    found: dict[str, dict[str, float]] = {}
    for exit in exits:
        before = found.get(exit.name, {"cpu_s": 0.0, "peak_mb": 0.0})
        cpu_s, peak_mb = before["cpu_s"] + exit.cpu_s, max(before["peak_mb"], exit.peak_mb)
        found[exit.name] = {"cpu_s": round(cpu_s, 3), "peak_mb": round(peak_mb, 1)}
    return found


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
        key = options.read_key()
        config, rules = options.check()
        sinks = options.make_sinks()
        options.make_record()
    except ConfigError as error:
        print(f"psctl run: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    view = open_view(options.quiet)
    control: Control | None = None
    try:
        address = options.place("controller").address
        control = _control_server(config, key, address) if make_control is None else make_control(config)
        return _run(options, config, rules, sinks, control, view, server, key)
    except (Error, OSError) as error:
        view.close()
        print(f"psctl run: {error}", file=sys.stderr)
        return 1
    finally:
        view.close()
        if control is not None:
            control.close()


def _control_server(config: RunConfig, key: Key | None, address: str) -> Control:
    from ps.control.service import ControlServer  # late: it brings grpc

    return ControlServer(config, host=address, hold=True, key=key)


def _run(
    options: RunOptions,
    config: RunConfig,
    rules: list[Rule],
    sinks: Mapping[str, Sink],
    control: Control,
    view: View,
    server: Sequence[str],
    key: Key | None,
) -> int:
    name = run_name(control.job)
    log_dir = make_log_dir(options.log_dir, name, view.note)
    if not options.quiet:
        servers, workers = (
            f"{n} {what}{'s' * (n > 1)}" for n, what in ((config.servers, "server"), (config.workers, "worker"))
        )
        logs = "" if log_dir is None else f"; logs in {log_dir}"
        logs += "" if options.record is None else f"; recording in {options.record}"
        view.note(f"{servers}, {workers}, {config.consistency}, {config.optimizer_in_words}{logs}")
    for name in ignored_variables(os.environ):
        view.note(f"{name} is not used; give --{name[3:].lower().replace('_', '-')} to psctl run")
    journal = Journal(sinks, view.note)
    journal.start(Started(name, log_dir, options.script, options.args, config.model_dump(mode="json"), time.time()))
    with Supervisor(view.line, view.note, log_dir, options.grace_s) as supervisor:
        watch = Watch(control, rules, view, journal, Figures(options.figures_s))
        code = Run(options, config, control, view, supervisor, watch, server, key).execute()
    if config.trace and log_dir is not None:
        (log_dir / PEERS).write_text(json.dumps({"peers": control.status()["metrics"]}))
    return code
