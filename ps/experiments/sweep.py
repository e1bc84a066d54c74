"""Runs all cells of an experiment, several at a time, and goes on where it was broken off."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ps.errors import ConfigError
from ps.experiments import netlab
from ps.experiments.cells import (
    Cell,
    Settings,
    check_cells,
    count_cells,
    final_cells,
    matching,
    tuned_by,
    tuning_cells,
    worlds,
)
from ps.experiments.environment import environment
from ps.experiments.files import Best, Experiment, Tune, in_virtual_time, parse_experiment, read_experiment
from ps.experiments.points import wholly_read
from ps.launch.files import read_text
from ps.launch.supervisor import Exit, Supervisor

FOLDER = "ps-sweeps"
CHOSEN = "chosen.json"  # what tuning has found: arm -> settings
TICK_S = 0.2  # between looks at the clock
GRACE_S = 10.0  # from SIGTERM to SIGKILL of a cell, beside what its hosts take to be removed


class View(Protocol):
    """What a sweep shows."""

    def ended(self, cell: Cell, outcome: Mapping[str, Any] | None, why: str) -> None: ...
    def progress(self, done: int, total: int, running: int, left_s: float | None) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass
class Running:
    """A cell that runs."""

    cell: Cell
    slot: int  # of `jobs`
    began: float
    is_late: bool = False


@dataclass
class Sweep:
    """One experiment in one folder. `jobs`: cells at a time."""

    path: Path  # of the experiment file
    folder: Path
    jobs: int
    view: View
    virtual: bool = False  # in virtual time, whatever world the file says
    only: str = "*"  # arms whose names match, as file names do
    experiment: Experiment = field(init=False)
    failed: dict[str, str] = field(default_factory=dict)  # cell -> why
    stopped: bool = False  # before its end
    broken: bool = False  # by something that the user has to mend
    _lock: int | None = None  # the folder, open: held as long as this lives
    total: int = 0  # cells
    _took_s: list[float] = field(default_factory=list)
    _done: int = 0
    _source: str = field(init=False)  # of the experiment file
    _arms: list[str] = field(init=False)  # that are run

    def __post_init__(self) -> None:
        self._source = read_text(str(self.path))
        if self.virtual:
            self._source = in_virtual_time(self.path, self._source)
        self.experiment = parse_experiment(self.path, self._source)
        check_cells(self.experiment, self.path.parent)
        self._arms = matching(self.experiment, self.only)
        self.total = count_cells(self.experiment, self._arms)
        if "netlab" in worlds(self.experiment) and (why := netlab.missing()) is not None:
            where = "world" if self.experiment.world == "netlab" else "tune.world"
            raise ConfigError(f"{self.path}: {where}: {why}; or choose {where} = virtual")

    def prepare(self) -> None:
        """Makes the folder, or finds what an earlier start has left in it.

        Raises: ConfigError when it belongs to another experiment, or cannot be written.
        """
        copy, described = self.folder / "experiment.toml", self.folder / "environment.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not copy.exists():
                if any(path != part_of(copy) for path in self.folder.iterdir()):
                    raise ConfigError(f"{self.folder}: expected no files, or those of a sweep, got others; use --out")
            elif (other := read_experiment(copy).name) != self.experiment.name:
                own = self.experiment.name
                raise ConfigError(f"{self.folder}: expected results of {own}, got those of {other}; use --out")
            write_whole(copy, self._source)  # cells are told apart by what they are: those that are the same stay
            if not described.exists():
                write_whole(described, json.dumps(environment(self.path.parent), indent=1))
        except BlockingIOError:
            raise ConfigError(f"{self.folder}: expected a folder of its own, got one that a sweep works in") from None
        except OSError as error:
            raise ConfigError(f"{self.folder}: expected a folder to write in, got {error.strerror or error}") from None

    def run(self) -> bool:
        """Everything that is not there yet; whether nothing is missing and nothing has failed.

        Raises: ConfigError naming a file that an earlier start has left, and that is damaged.
        """
        try:
            return self._run_all()
        except OSError as error:
            self.stopped = self.broken = True
            self.view.say(f"stopped: {error}; what has finished stays: mend that, and start the same sweep again")
            return False

    def _run_all(self) -> bool:
        chosen: dict[str, Settings] = {name: {} for name in self._arms}
        if self.experiment.tune is not None:
            cells = tuning_cells(self.experiment, self.path.parent, self._arms)
            self._run(cells)
            if self.stopped:
                return False
            chosen = self._choose(self.experiment.tune, cells)
        self._run(final_cells(self.experiment, self.path.parent, chosen))
        return not (self.stopped or self.failed) and len(chosen) == len(self._arms)

    def _choose(self, tune: Tune, cells: Sequence[Cell]) -> dict[str, Settings]:
        """What each arm runs with. It stays in the folder, as does what the arms of other tunings have chosen."""
        best, by = choose(tune, self.folder, cells), tuned_by(self.experiment)
        tuned = dict.fromkeys(by[name] for name in self._arms)
        for name in tuned:
            if name in best:
                self.view.say(f"{name}: tuned to {', '.join(f'{key}={value}' for key, value in best[name].items())}")
            else:
                self.view.say(f"{name}: no setting has given a value of {tune.metric}, so it is left out")
        path = self.folder / CHOSEN
        before = read_object(path) if path.is_file() else {}
        others = {name: settings for name, settings in before.items() if name in by and by[name] not in tuned}
        chosen = {name: best[at] for name, at in by.items() if at in best}
        write_whole(path, json.dumps(others | chosen))
        return {name: chosen[name] for name in self._arms if name in chosen}

    def close(self) -> None:
        """Others may work in the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _run(self, cells: Sequence[Cell]) -> None:
        waiting: deque[Cell] = deque()
        for cell in cells:
            if self.is_done(cell):
                (self.folder_of(cell) / "cell.json").touch()  # of cells that are alike the report takes the latest
            else:
                waiting.append(cell)
        self._done += len(cells) - len(waiting)
        running: dict[str, Running] = {}
        grace_s = GRACE_S + (netlab.COMMAND_S if any(cell.world == "netlab" for cell in cells) else 0.0)
        with Supervisor(lambda name, line: None, self.view.say, self.folder / "cells", grace_s) as supervisor:
            while running or (waiting and not self.stopped):
                while waiting and len(running) < self.jobs and not self.stopped:
                    cell = waiting.popleft()
                    slot = min({*range(self.jobs)} - {item.slot for item in running.values()})
                    running[self.start(cell, slot, supervisor)] = Running(cell, slot, time.monotonic())
                for exit in supervisor.wait(TICK_S):
                    self.take(running.pop(exit.name), exit)
                self.look_at_time(running, supervisor)
                self.view.progress(self._done, self.total, len(running), self.left_s(running))

    def is_done(self, cell: Cell) -> bool:
        """It has an outcome already, and did not fail."""
        return has_ended_well(cell, read_outcome(self.folder_of(cell)))

    def folder_of(self, cell: Cell) -> Path:
        """Of its results."""
        return self.folder / "cells" / cell.id

    def start(self, cell: Cell, slot: int, supervisor: Supervisor) -> str:
        """Begins a cell in a process of its own, and gives its name; what an earlier try has left goes."""
        folder = self.folder_of(cell)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_whole(folder / "cell.json", cell.model_dump_json(indent=1))
        # one thread, however many cells run at a time: sums are then made in one order, and cells end in the same bytes
        threads = {"OMP_NUM_THREADS": "1"} if cell.world == "virtual" else {}
        name = f"{cell.id}/output"  # its log is output.log in its folder
        argv = [sys.executable, "-m", "ps.experiments.runner", "--slot", str(slot), str(folder.resolve())]
        supervisor.start(name, argv, {**os.environ, **threads, "PYTHONUNBUFFERED": "1"})
        return name

    def take(self, item: Running, exit: Exit) -> None:
        """A cell has ended."""
        outcome, why = read_outcome(self.folder_of(item.cell)), ""
        if self.stopped:
            return
        self._done += 1
        self._took_s.append(time.monotonic() - item.began)
        if item.is_late:
            why = f"not ended after {item.cell.timeout_s:g} s (timeout_s)"
        elif not has_ended_well(item.cell, outcome):
            why = next((line for line in reversed(exit.tail) if line.strip()), exit.words)
        if why:
            self.failed[item.cell.id] = why
        self.view.ended(item.cell, outcome, why)

    def look_at_time(self, running: Mapping[str, Running], supervisor: Supervisor) -> None:
        """Ends cells whose time is up, and all of them when the user says so."""
        if supervisor.signals and not self.stopped:
            self.stopped = True
            self.view.say("interrupted: what has finished stays, psctl sweep with the same file goes on")
        if len(supervisor.signals) > 1:
            supervisor.kill()
        for name, item in running.items():
            item.is_late |= time.monotonic() > item.began + item.cell.timeout_s
            if self.stopped or item.is_late:
                supervisor.terminate([name])

    def left_s(self, running: Mapping[str, Running]) -> float | None:
        """About how long the rest takes, by the cells so far; None before the first has ended."""
        if not self._took_s:
            return None
        each, now = statistics.mean(self._took_s), time.monotonic()
        begun = sum(max(each - (now - item.began), 0.0) for item in running.values())
        later = self.total - self._done - len(running)
        return (later * each + begun) / self.jobs


def choose(tune: Tune, folder: Path, cells: Sequence[Cell]) -> dict[str, Settings]:
    """By arm, the tuned settings whose validation metric is best: the mean over the seeds of its best value in a run.

    A run that has failed, or logged no such value, counts as the worst; an arm of which that holds for all is left out.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        values = metric_of(cell, folder / "cells" / cell.id, tune.metric)
        key = json.dumps(cell.tuned)
        found.setdefault(cell.arm, {}).setdefault(key, []).append(score(values, tune.best))
    chosen: dict[str, Settings] = {}
    for arm, tried in found.items():
        key, scores = max(tried.items(), key=lambda pair: statistics.mean(pair[1]))
        if statistics.mean(scores) > float("-inf"):
            chosen[arm] = json.loads(key)
    return chosen


def score(values: Iterable[float], best: Best) -> float:
    """Of a run that tunes, the larger the better: its best value, negative where less is better; -inf without any."""
    sign = 1.0 if best == "max" else -1.0
    return max((sign * value for value in values if math.isfinite(value)), default=float("-inf"))


def metric_of(cell: Cell, folder: Path, name: str) -> list[float]:
    """The values of a logged metric of a finished cell, in the order of time; none of one that has failed.

    Raises: ConfigError naming the file when it is damaged.
    """
    if not has_ended_well(cell, read_outcome(folder)):
        return []
    import pyarrow.parquet as pq

    path = folder / "points.parquet"
    with wholly_read(path):
        table = pq.read_table(path, columns=["metric", "value"], filters=[("metric", "==", name)])
        values: list[float] = table["value"].to_pylist()
    return values


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """None where the cell has not ended, or its outcome was cut off."""
    try:
        return read_object(folder / "outcome.json")
    except ConfigError:
        return None


def read_object(path: Path) -> dict[str, Any]:
    """Of a file of JSON. Raises: ConfigError naming it."""
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected a JSON object, got a file that fails with: {error}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(plain).__name__}")
    return plain


def has_ended_well(cell: Cell, outcome: Mapping[str, Any] | None) -> bool:
    """It is a result: it has ended by itself, or because of the peer that its faults kill."""
    if outcome is None or outcome.get("exit_code") is None:
        return False
    if outcome["exit_code"] == 0:
        return True
    killed = [fault.killed for fault in cell.faults if fault.killed]
    reasons = tuple(words for peer in killed for words in (f"{peer}: killed by SIGKILL", f"{peer} was lost"))
    return bool(reasons) and (outcome.get("reason") or "").startswith(reasons)


def write_whole(path: Path, text: str) -> None:
    """The file is there whole, or not at all."""
    part = part_of(path)
    part.write_text(text)
    part.rename(path)


def part_of(path: Path) -> Path:
    """The name of a file until it is whole."""
    return path.with_name(path.name + ".part")


def jobs_for(experiment: Experiment, wanted: int | None) -> int:
    """Cells at a time: one core each in virtual time; real processes disturb each other's clocks, so one."""
    if wanted is not None:
        return wanted
    return len(os.sched_getaffinity(0)) if worlds(experiment) == {"virtual"} else 1
