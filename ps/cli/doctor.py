"""`psctl doctor`: what of this machine or of a cluster is in the way, and what to do about it.

No package that may be missing or broken is imported before it is looked at.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import typer

from ps.addresses import split_address
from ps.cli.common import PORT, key_flag, one_line
from ps.doctor.examine import examine

ERASE = "\r\x1b[K"  # the line with the cursor


@one_line("doctor")
def doctor(
    controller: str = typer.Option(
        None, envvar="PS_CONTROLLER", metavar="HOST:PORT", help="Look at its cluster too.", show_envvar=False
    ),
    key: str = key_flag(),
    as_json: bool = typer.Option(False, "--json", help="One JSON object, for programs."),
) -> int:
    """Check this machine and, with --controller, the cluster as it is seen from here.

    A line for each thing that was looked at: ok, warning or problem, and the remedy. Exit code 1 when there is a
    problem.
    """
    if controller:
        split_address("--controller", controller)
    live = sys.stderr.isatty()

    def say(text: str) -> None:
        if live:
            print(f"{ERASE}looking at {text} ...", end="", file=sys.stderr, flush=True)

    found = []
    for finding in examine(controller or None, PORT, key, say):
        found.append(finding)
        if live:
            print(ERASE, end="", file=sys.stderr, flush=True)
        if not as_json:
            print(finding, flush=True)
    problems = sum(finding.level == "problem" for finding in found)
    if live:
        print(ERASE, end="", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"problems": problems, "findings": [asdict(finding) for finding in found]}))
    return int(problems > 0)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("doctor")(doctor)
