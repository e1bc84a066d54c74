"""`psctl report`: what came out of an experiment, as pages, tables and figures."""

from __future__ import annotations

from pathlib import Path

import typer

from ps.cli.common import one_line
from ps.experiments.page import state, warnings, write_report
from ps.experiments.results import read_results


@one_line("report")
def report(
    folder: str = typer.Argument(..., metavar="DIR", help="What psctl sweep has written.", show_default=False),
    out: str = typer.Option(None, metavar="FOLDER", help="Where to write; else DIR/report.", show_default=False),
) -> int:
    """Report a sweep: report.html, report.md, summary.csv, summary.tex (booktabs), figures/*.pdf.

    Whatever has ended so far is reported, and what is missing is said. Needs paramserver[experiments].
    """
    results = read_results(Path(folder))
    page = write_report(results, Path(out) if out else Path(folder) / "report")
    for text in (state(results), *warnings(results)):
        print(text)
    print(page)
    return 0


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("report")(report)
