"""`psctl worker`: one worker of a cluster whose controller runs elsewhere: a script now, or an agent that gets one."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from ps.cli.common import one_line, parameter, with_parameters
from ps.cli.flags import controller_option, file_option, key_option, needed_controller, text_option, with_file
from ps.errors import ConfigError
from ps.key import Key, key_in
from ps.launch.files import WorkerFile
from ps.launch.options import LOG_DIR, check_script, cluster_environment, naming_lines

WORKER_HELP = """Run SCRIPT as one more worker of a cluster; it gets any free rank. Without SCRIPT: be an agent.

SCRIPT calls ps.connect(). What follows it are its own arguments. PS_JOB joins no other job than that.

An agent waits for the job of `psctl submit` and runs one worker of it, from a script in its --directory: nothing else,
and no code is sent. It ends with the job, with exit code 0; it is 1 when the controller is gone.
"""


@one_line("worker")
def worker(**given: Any) -> int:
    """This process becomes the script, whose are its signals and exit code; or an agent."""
    script, args = given.pop("script"), given.pop("args")
    options, places = with_file(given, WorkerFile)
    controller = options.get("controller")
    with naming_lines(places):
        controller = needed_controller(controller)
        key = key_in(options.pop("key", None))
        if script is not None:
            return _become(script, list(args or ()), controller, options, key)
        from ps.launch.agent import checked_directory, run_agent  # late: it brings sockets

        checked_directory(options.get("directory", "."))
    return run_agent(controller, options.get("directory", "."), options.get("log_dir", LOG_DIR), key)


def _become(script: str, args: list[str], controller: str, options: dict[str, Any], key: Key | None) -> int:
    for name in ("directory", "log_dir"):
        if name in options:
            raise ConfigError(
                f"--{name.replace('_', '-')}: expected no SCRIPT beside it, as it is for an agent, got {script!r}; "
                "leave one of the two out"
            )
    check_script("SCRIPT", script)
    env = cluster_environment(os.environ, controller, b"", workers=1, key=key)
    env["PS_JOB"] = os.environ.get("PS_JOB", "")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, script, *args], env)


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
    app.command("worker", help=WORKER_HELP, context_settings={"allow_interspersed_args": False})(command)
