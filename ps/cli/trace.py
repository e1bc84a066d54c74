"""`psctl trace`: what workers and servers of a run did, as a trace to look at."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from ps.cli.common import one_line
from ps.errors import ConfigError
from ps.experiments.tables import markdown
from ps.experiments.trace import chrome_trace, latency_table, read_peers

DIR_HELP = "Of a run (ps-logs/...) or a cell (cells/ID)."
OUT_HELP = "For ui.perfetto.dev or chrome://tracing."


@one_line("trace")
def trace(
    folder: str = typer.Argument(..., metavar="DIR", help=DIR_HELP, show_default=False),
    out: str = typer.Option("trace.json", "--out", "-o", metavar="FILE", help=OUT_HELP),
) -> int:
    """Export the spans of a run that was traced: psctl run --trace true, or trace = true in [run] of an experiment.

    Prints how long messages, encoding and commits took, by size. Each worker and server keeps its last 4096 spans.
    """
    peers = read_peers(Path(folder))
    try:
        Path(out).write_text(json.dumps(chrome_trace(peers)))
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written: {error.strerror or error}") from None
    print(markdown(latency_table(peers)))
    print(out)
    return 0


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("trace")(trace)
