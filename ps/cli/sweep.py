"""`psctl sweep`: runs an experiment file, cell by cell."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ps.cli.common import one_line
from ps.errors import ConfigError
from ps.experiments.cells import Cell, check_cells, count_cells, matching
from ps.experiments.files import read_experiment, schema
from ps.experiments.packages import need
from ps.experiments.sweep import FOLDER, Sweep, jobs_for

if TYPE_CHECKING:
    from rich.progress import Progress


OUT_HELP = f"Of the results. [default: {FOLDER}/NAME]"
ONLY_HELP = "Run arms whose names match, as '*onebit*'."
JOBS_HELP = "Cells at a time. [default: as many as cores in virtual time, else 1]"


@one_line("sweep")
def sweep(
    file: Path | None = typer.Argument(None, metavar="FILE", help="An experiment file (TOML).", show_default=False),
    out: Path | None = typer.Option(None, metavar="DIR", help=OUT_HELP, show_default=False),
    jobs: int | None = typer.Option(None, metavar="N", min=1, help=JOBS_HELP, show_default=False),
    only: str = typer.Option("*", metavar="PATTERN", help=ONLY_HELP),
    check: bool = typer.Option(False, "--check", help="Only say what would run."),
    print_schema: bool = typer.Option(False, "--schema", help="Print the JSON Schema of experiment files."),
) -> int:
    """Run all cells of an experiment; what has finished already is not run again.

    Ctrl-C keeps what has finished; the same command goes on. Exit code 1 when a cell has failed or is missing. Then:
    psctl report DIR.
    """
    if print_schema:
        print(json.dumps(schema(), indent=1))
        return 0
    if file is None:
        raise ConfigError("FILE: expected an experiment file, got none; docs/experiments.md shows one")
    experiment = read_experiment(file)
    folder = out if out is not None else Path(FOLDER) / experiment.name
    if check:
        check_cells(experiment, file.parent)
        cells = count_cells(experiment, matching(experiment, only))
        print(f"{file}: {cells} cells, {experiment.world}; results go to {folder}")
        return 0
    return run_sweep(file, folder, jobs, only=only)


def run_sweep(file: Path, folder: Path, jobs: int | None, virtual: bool = False, only: str = "*") -> int:
    """Runs what is missing in the folder; the exit code. virtual: in virtual time, whatever world the file says."""
    need("pyarrow")
    with Shown() as view, closing(Sweep(file, folder, 1, view, virtual, only)) as work:
        work.jobs = jobs_for(work.experiment, jobs)
        work.prepare()
        fine = work.run()
    if work.failed:
        count = f"{len(work.failed)} of {work.total} cells have failed"
        print(f"psctl sweep: {count}; each has its output.log", file=sys.stderr)
    print(f"results in {folder}; psctl report {folder} shows them")
    return 130 if work.stopped and not work.broken else int(not fine)


class Shown:
    """A bar with the time left on a terminal, a line per cell without one."""

    def __init__(self) -> None:
        self._bar: Progress | None = None

    def __enter__(self) -> Shown:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("cells", total=None, left="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def ended(self, cell: Cell, outcome: Mapping[str, Any] | None, why: str) -> None:
        """One line."""
        tuned = "".join(f", {key}={value}" for key, value in cell.tuned.items())
        name = f"{'tuning ' if cell.phase == 'tune' else ''}{cell.arm}{tuned}, seed {cell.seed}"
        if why:
            self.say(f"{name}: failed: {why}")
        elif outcome is not None:
            self.say(f"{name}: {outcome['seconds']:.1f} s, {min(outcome['clocks'], default=0)} clocks")

    def progress(self, done: int, total: int, running: int, left_s: float | None) -> None:
        """Of the whole sweep."""
        if self._bar is not None:
            left = "" if left_s is None else f"about {int(left_s) // 60}:{int(left_s) % 60:02d} left"
            self._bar.update(self._task, completed=done, total=total, left=left)

    def say(self, text: str) -> None:
        """A line."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("sweep")(sweep)
