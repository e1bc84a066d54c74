"""`psctl worker`: a script as one worker of a cluster whose controller runs elsewhere."""

from __future__ import annotations

import os
import sys

import typer

from ps.cli.common import one_line
from ps.control.commands import check_address
from ps.launch.options import check_script, cluster_environment

WORKER_HELP = """Run SCRIPT as one more worker of a cluster; it gets any free rank.

SCRIPT calls ps.connect(). What follows it are its own arguments. PS_JOB joins no other job than that.
"""


@one_line("worker")
def worker(
    controller: str = typer.Option(
        ..., envvar="PS_CONTROLLER", metavar="HOST:PORT", help="Where the controller listens.", show_envvar=False
    ),
    script: str = typer.Argument(..., metavar="SCRIPT", help="A Python file.", show_default=False),
    args: list[str] = typer.Argument(None, metavar="ARGS", help="Its own.", show_default=False),
) -> int:
    """This process becomes the script: signals and the exit code are the script's."""
    check_address("--controller", controller)
    check_script("SCRIPT", script)
    env = cluster_environment(os.environ, controller, b"", workers=1)
    env["PS_JOB"] = os.environ.get("PS_JOB", "")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, script, *(args or ())], env)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("worker", help=WORKER_HELP, context_settings={"allow_interspersed_args": False})(worker)
