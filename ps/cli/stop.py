"""`psctl stop`: ends a job from outside."""

from __future__ import annotations

import typer

from ps.cli.common import CONTROLLER_HELP, key_flag, one_line
from ps.control.commands import ask_stop
from ps.key import key_in


@one_line("stop")
def stop(
    controller: str = typer.Argument(
        ..., envvar="PS_CONTROLLER", metavar="HOST:PORT", help=CONTROLLER_HELP, show_default=False, show_envvar=False
    ),
    key: str = key_flag(),
    reason: str = typer.Option("psctl stop", metavar="TEXT", help="Shown to everybody."),
) -> int:
    """End a job: workers finish their clock, then everybody leaves.

    Exit code 1, with one line, when nobody answers there. A job that is ending already keeps its reason.
    """
    ask_stop(controller, reason, key=key_in(key))
    return 0


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("stop")(stop)
