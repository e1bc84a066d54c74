"""`psctl`: finds the command, says what is wrong in one line. Commands are loaded when they are called."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperGroup

import ps

# Command -> the module that has it as `command`. A new one is a file and a line here.
COMMANDS = {
    "run": "ps.cli.run",
    "controller": "ps.cli.controller",
    "server": "ps.cli.server",
    "worker": "ps.cli.worker",
    "submit": "ps.cli.submit",
    "status": "ps.cli.status",
    "stop": "ps.cli.stop",
    "replay": "ps.cli.replay",
    "doctor": "ps.cli.doctor",
    "key": "ps.cli.key",
    "sweep": "ps.cli.sweep",
    "profile": "ps.cli.profile",
    "simulate": "ps.cli.simulate",
    "recommend": "ps.cli.recommend",
    "report": "ps.cli.report",
    "trace": "ps.cli.trace",
}


class Lazy(TyperGroup):
    """Loads only the command that was asked for; `psctl --help` loads all, for their first lines."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        made = typer.Typer(add_completion=False, rich_markup_mode=None)
        importlib.import_module(COMMANDS[cmd_name]).add_to(made)
        command = typer.main.get_command(made)
        command.name = cmd_name
        return command


app = typer.Typer(cls=Lazy, add_completion=False, rich_markup_mode=None, no_args_is_help=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"psctl {ps.__version__}")
        raise typer.Exit


@app.callback()
def _psctl(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Train on machines that are not alike and not close: a parameter server.

    `psctl COMMAND --help` says more about a command.
    """


def main(argv: list[str] | None = None) -> None:
    """The console script. Exits with the command's code; 2 for a wrong command line, with one line on stderr."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = typer.main.get_command(app)(args=argv, prog_name="psctl", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        # The class of usage errors moved between releases of typer; what makes one is that it can word itself.
        words = getattr(error, "format_message", None)
        if words is None:
            raise
        path = f"psctl {argv[0]}" if argv and argv[0] in COMMANDS else "psctl"
        text = str(words()).rstrip(".").replace("\n", " ")
        print(f"{path}: {text}; see {path} --help", file=sys.stderr)
        sys.exit(2)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
