"""Runs all cells of an experiment, several at a time, and goes on where it was broken off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ps.errors import ConfigError
from ps.experiments import netlab
from ps.experiments.cells import Cell, Settings, arms, check_cells, final_cells, tuning_cells
from ps.experiments.environment import environment
from ps.experiments.files import Experiment, Tune, read_experiment

FOLDER = "ps-sweeps"
POLL_S = 0.05
GRACE_S = 10.0  # from SIGTERM to SIGKILL of a cell


class View(Protocol):
    """What a sweep shows."""

    def began(self, cell: Cell) -> None: ...
    def ended(self, cell: Cell, outcome: Mapping[str, Any] | None, why: str) -> None: ...
    def progress(self, done: int, total: int, running: int, left_s: float | None) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass
class Running:
    """A cell that runs."""

    cell: Cell
    process: subprocess.Popen[bytes]
    began: float
    asked_at: float = float("inf")  # when it was told to end


@dataclass
class Sweep:
    """One experiment in one folder. `jobs`: cells at a time."""

    path: Path  # of the experiment file
    folder: Path
    jobs: int
    view: View
    experiment: Experiment = field(init=False)
    failed: dict[str, str] = field(default_factory=dict)  # cell -> why
    stopped: bool = False
    _took_s: list[float] = field(default_factory=list)
    _done: int = 0
    _total: int = 0

    def __post_init__(self) -> None:
        self.experiment = read_experiment(self.path)
        self._total = check_cells(self.experiment, self.path.parent)
        if self.experiment.world == "netlab" and (why := netlab.missing()) is not None:
            raise ConfigError(f"{self.path}: world: {why}; or choose world = virtual")

    def prepare(self) -> None:
        """Makes the folder, or finds what an earlier start has left in it.

        Raises: ConfigError when it belongs to another experiment, or cannot be written.
        """
        source = self.path.read_bytes()
        copy = self.folder / "experiment.toml"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                if any(self.folder.iterdir()):
                    raise ConfigError(f"{self.folder}: expected no files, or those of a sweep, got others; use --out")
                copy.write_bytes(source)
                described = json.dumps(environment(self.path.parent), indent=1)
                (self.folder / "environment.json").write_text(described)
            elif read_experiment(copy).name != self.experiment.name:
                raise ConfigError(f"{self.folder}: expected results of {self.experiment.name}, got others; use --out")
            else:
                copy.write_bytes(source)  # cells are told apart by what they are: those that are the same stay
        except OSError as error:
            raise ConfigError(f"{self.folder}: expected a folder to write in, got {error.strerror or error}") from None

    def run(self) -> bool:
        """Everything that is not there yet; whether nothing is missing and nothing has failed."""
        folder, tune = self.path.parent, self.experiment.tune
        chosen: dict[str, Settings] = {name: {} for name in arms(self.experiment)}
        if tune is not None:
            cells = tuning_cells(self.experiment, folder)
            self._run(cells)
            if self.stopped:
                return False
            best = choose(tune, self.folder, cells)
            for name in chosen.keys() - best.keys():
                self.view.say(f"{name}: no setting has given a value of {tune.metric}, so it is left out")
            for name, settings in best.items():
                self.view.say(f"{name}: tuned to {', '.join(f'{key}={value}' for key, value in settings.items())}")
            chosen = best
        self._run(final_cells(self.experiment, folder, chosen))
        return not (self.stopped or self.failed) and len(chosen) == len(arms(self.experiment))

    def _run(self, cells: Sequence[Cell]) -> None:
        waiting = deque(cell for cell in cells if not self.is_done(cell))
        self._done += len(cells) - len(waiting)
        running: list[Running] = []
        try:
            while (waiting and not self.stopped) or running:
                while waiting and len(running) < self.jobs and not self.stopped:
                    running.append(self.start(waiting.popleft()))
                time.sleep(POLL_S)
                for item in [item for item in running if item.process.poll() is not None]:
                    running.remove(item)
                    self.take(item)
                self.look_at_time(running)
                self.view.progress(self._done, self._total, len(running), self.left_s(len(waiting), running))
        except OSError as error:
            self.stopped = True
            self.view.say(f"stopped: {error}; what has finished stays, make room and start the same sweep again")
        except KeyboardInterrupt:
            self.stopped = True
            self.view.say("interrupted: what has finished stays, `psctl sweep` with the same file goes on")
        finally:
            end_all(running)

    def is_done(self, cell: Cell) -> bool:
        """It has an outcome already, and did not fail."""
        return has_ended_well(cell, read_outcome(self.folder_of(cell)))

    def folder_of(self, cell: Cell) -> Path:
        """Of its results."""
        return self.folder / "cells" / cell.id

    def start(self, cell: Cell) -> Running:
        """Begins a cell in a process of its own; what an earlier try has left goes."""
        folder = self.folder_of(cell)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(cell.model_dump_json(indent=1))
        self.view.began(cell)
        threads = {"OMP_NUM_THREADS": "1"} if cell.world == "virtual" and self.jobs > 1 else {}
        with (folder / "output.log").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ps.experiments.runner", str(folder.resolve())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        return Running(cell, process, time.monotonic())

    def take(self, item: Running) -> None:
        """A cell has ended."""
        self._done += 1
        self._took_s.append(time.monotonic() - item.began)
        outcome, why = read_outcome(self.folder_of(item.cell)), ""
        if item.asked_at < float("inf"):
            why = f"not ended after {item.cell.timeout_s:g} s (timeout_s)"
        elif not has_ended_well(item.cell, outcome):
            why = last_line(self.folder_of(item.cell) / "output.log") or f"exit code {item.process.returncode}"
        if why:
            self.failed[item.cell.id] = why
        self.view.ended(item.cell, outcome, why)

    def look_at_time(self, running: Sequence[Running]) -> None:
        """Ends cells whose time is up."""
        now = time.monotonic()
        for item in running:
            if now > item.asked_at + GRACE_S:
                kill(item.process, signal.SIGKILL)
            elif now > item.began + item.cell.timeout_s and item.asked_at == float("inf"):
                item.asked_at = now
                kill(item.process, signal.SIGTERM)

    def left_s(self, waiting: int, running: Sequence[Running]) -> float | None:
        """About how long the rest takes, by the cells so far; None before the first has ended."""
        if not self._took_s:
            return None
        each, now = statistics.mean(self._took_s), time.monotonic()
        begun = sum(max(each - (now - item.began), 0.0) for item in running)
        later = self._total - self._done - len(running)
        return (later * each + begun) / self.jobs


def choose(tune: Tune, folder: Path, cells: Sequence[Cell]) -> dict[str, Settings]:
    """By arm, the tuned settings whose validation metric is best: the mean over the seeds of its best value in a run.

    A run that has failed, or logged no such value, counts as the worst; an arm of which that holds for all is left out.
    """
    sign = 1.0 if tune.best == "max" else -1.0
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        values = metric_of(cell, folder / "cells" / cell.id, tune.metric)
        best = max((sign * value for value in values), default=float("-inf"))
        key = json.dumps(cell.tuned)
        found.setdefault(cell.arm, {}).setdefault(key, []).append(best)
    chosen: dict[str, Settings] = {}
    for arm, tried in found.items():
        key, scores = max(tried.items(), key=lambda pair: statistics.mean(pair[1]))
        if statistics.mean(scores) > float("-inf"):
            chosen[arm] = json.loads(key)
    return chosen


def metric_of(cell: Cell, folder: Path, name: str) -> list[float]:
    """The values of a logged metric of a finished cell, in the order of time; none of one that has failed."""
    if not has_ended_well(cell, read_outcome(folder)):
        return []
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "points.parquet", columns=["metric", "value"], filters=[("metric", "==", name)])
    values: list[float] = table["value"].to_pylist()
    return values


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """None where the cell has not ended, or its outcome was cut off."""
    try:
        found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return found


def has_ended_well(cell: Cell, outcome: Mapping[str, Any] | None) -> bool:
    """It is a result: it has ended by itself, or as its faults would have it."""
    return outcome is not None and (outcome["exit_code"] == 0 or bool(cell.faults))


def last_line(path: Path) -> str:
    """Of what a cell has printed."""
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def kill(process: subprocess.Popen[bytes], number: int) -> None:
    """To the process; its children end with it."""
    if process.poll() is None:
        process.send_signal(number)


def end_all(running: Sequence[Running]) -> None:
    """Asks all to end, then makes them."""
    for number, seconds in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        for item in running:
            kill(item.process, number)
        deadline = time.monotonic() + seconds
        for item in running:
            try:
                item.process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                continue


def jobs_for(experiment: Experiment, wanted: int | None) -> int:
    """Cells at a time: one core each in virtual time; real processes disturb each other's clocks, so one."""
    if wanted is not None:
        return wanted
    return len(os.sched_getaffinity(0)) if experiment.world == "virtual" else 1
