"""`psctl worker`: one worker of a cluster whose controller runs elsewhere: a script or command now, or an agent."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import typer
from typer.core import TyperCommand

from ps.cli.common import one_line, parameter, with_parameters
from ps.cli.flags import controller_option, file_option, key_option, needed_controller, text_option, with_file
from ps.errors import ConfigError
from ps.key import Key, key_in
from ps.launch.files import WorkerFile
from ps.launch.options import LOG_DIR, check_script, cluster_environment, naming_lines

WORKER_HELP = """Run SCRIPT as one more worker of a cluster; it gets any free rank. Without SCRIPT: be an agent.

SCRIPT calls ps.connect(). What follows it are its own arguments. PS_JOB joins no other job than that.

After -- comes any command instead, in one process of which ps.connect() is called: psctl worker -- torchrun train.py

An agent waits for the job of `psctl submit` and runs one worker of it, from a script in its --directory: nothing else,
and no code is sent. It ends with the job, with exit code 0; it is 1 when the controller is gone.
"""


class Divided(TyperCommand):
    """Tells what follows `--` from a script and its arguments: then `script` is None, and `args` are all words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        words = [word for word in [ctx.params["script"], *(ctx.params["args"] or ())] if word is not None]
        before = len(given) - len(words) - 1
        if before >= 0 and given[before] == "--":
            if not words:
                raise typer.BadParameter("expected a command after --, got none")
            ctx.params.update(script=None, args=words)
        return rest


@one_line("worker")
def worker(**given: Any) -> int:
    """This process becomes the script or command, whose are its signals and exit code; or an agent."""
    script, args = given.pop("script"), list(given.pop("args") or ())
    options, places = with_file(given, WorkerFile)
    controller = options.get("controller")
    with naming_lines(places):
        controller = needed_controller(controller)
        key = key_in(options.pop("key", None))
        if script is not None or args:
            return _become(script, args, controller, options, key)
        from ps.launch.agent import checked_directory, run_agent  # late: it brings sockets

        checked_directory(options.get("directory", "."))
    return run_agent(controller, options.get("directory", "."), options.get("log_dir", LOG_DIR), key)


def _become(script: str | None, args: list[str], controller: str, options: dict[str, Any], key: Key | None) -> int:
    what, word = ("SCRIPT", script) if script is not None else ("COMMAND", args[0])
    for name in ("directory", "log_dir"):
        if name in options:
            raise ConfigError(
                f"--{name.replace('_', '-')}: expected no {what} beside it, as it is for an agent, got {word!r}; "
                "leave one of the two out"
            )
    env = cluster_environment(os.environ, controller, b"", workers=1, key=key)
    env["PS_JOB"] = os.environ.get("PS_JOB", "")
    if script is not None:
        check_script("SCRIPT", script)
        path, argv = sys.executable, [sys.executable, script, *args]
    else:
        path, argv = _found(args[0]), args
        if "OMP_NUM_THREADS" not in os.environ:
            del env["OMP_NUM_THREADS"]  # all cores: too many for each of the processes that it may start
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(path, argv, env)
    except OSError as error:  # a script without its first line, a program for other machines
        raise ConfigError(f"{what}: expected one that can be started, got {word!r}: {error.strerror}") from None


def _found(command: str) -> str:
    """Its file. Raises: ConfigError."""
    path = shutil.which(command)
    if path is None:
        raise ConfigError(
            f"COMMAND: expected a program in PATH or a path to one, got {command!r}, which is none; a Python file goes "
            "without the --"
        )
    return path


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    options = [
        controller_option(),
        key_option(),
        file_option(),
        text_option("directory", "DIR", "An agent's: it starts scripts in here only. [default: where it is started]"),
        text_option("log_dir", "DIR", f"An agent's: for a folder with what its worker prints. [default: {LOG_DIR}]"),
        parameter(
            "script", str | None, typer.Argument(None, metavar="[SCRIPT]", help="A Python file.", show_default=False)
        ),
        parameter("args", list[str], typer.Argument(None, metavar="[ARGS]...", help="Its own.", show_default=False)),
    ]
    command = with_parameters(worker, options)
    settings = {"allow_interspersed_args": False}
    app.command("worker", cls=Divided, help=WORKER_HELP, context_settings=settings)(command)
