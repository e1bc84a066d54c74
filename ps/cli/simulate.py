"""`psctl simulate`: an experiment in virtual time, with its numbers, or without them for what time it takes."""

from __future__ import annotations

from pathlib import Path

import typer

from ps.cli.common import one_line
from ps.cli.sweep import JOBS_HELP, run_sweep
from ps.experiments.files import in_virtual_time, parse_experiment, read_experiment
from ps.experiments.sweep import FOLDER
from ps.experiments.tables import markdown
from ps.launch.files import read_text
from ps.predict.profile import read_profile
from ps.predict.simulate import CLOCKS, check_workers, predict_experiment, table, write_csv

OUT_HELP = f"Of the results; with --profile a CSV file. [default: {FOLDER}/NAME-virtual, or NAME-predicted.csv]"
PROFILE_HELP = "Without payload, by what psctl profile has measured; one for each compression in the file."
CLOCKS_HELP = "Of each worker that are simulated without payload."


@one_line("simulate")
def simulate(
    file: Path = typer.Argument(..., metavar="FILE", help="An experiment file (TOML).", show_default=False),
    profile: list[Path] = typer.Option([], metavar="FILE", help=PROFILE_HELP, show_default=False),
    clocks: int = typer.Option(CLOCKS, metavar="N", min=1, help=CLOCKS_HELP),
    out: Path | None = typer.Option(None, "--out", "-o", metavar="PATH", help=OUT_HELP, show_default=False),
    jobs: int | None = typer.Option(None, metavar="N", min=1, help=JOBS_HELP, show_default=False),
) -> int:
    """Run an experiment in virtual time, whatever world its file says: as psctl sweep, then psctl report DIR.

    With --profile nothing is computed: for any number of workers it says how long a clock of each arm takes.
    """
    if not profile:
        experiment = parse_experiment(file, in_virtual_time(file, read_text(str(file))))
        check_workers(experiment, file.parent)
        return run_sweep(file, out if out is not None else Path(FOLDER) / f"{experiment.name}-virtual", jobs, True)
    experiment = read_experiment(file)
    found = predict_experiment(experiment, file.parent, [read_profile(path) for path in profile], clocks)
    target = out if out is not None else Path(f"{experiment.name}-predicted.csv")
    write_csv(found, target)
    print(markdown(table(found)))
    print(target)
    return 0


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("simulate")(simulate)
