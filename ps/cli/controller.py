"""`psctl controller`: the controller of a cluster whose servers and workers are started by others."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from ps.cli.common import PORT, check_reach, one_line, parameter, with_parameters
from ps.cli.flags import file_option, key_option, log_to_option, text_option, with_file
from ps.cli.run import config_options, rule_options
from ps.key import key_in
from ps.launch.daemon import ControllerOptions, run_controller
from ps.launch.files import ControllerFile
from ps.launch.options import LOG_DIR, checked_config, naming_lines, rules_of
from ps.launch.save import check_target
from ps.launch.sinks import LOG_TO, sinks_of

CONTROLLER_HELP = """Run the controller of a cluster until its job is over.

Servers and workers are started by you, `psctl server` and `psctl worker`, on this machine or others. Exit code 0, or 1
when the job failed. Ctrl-C or SIGTERM ends the job: workers finish their clock; a second one ends it at once.

\b
Example:
  psctl controller --servers 1 --workers 2 --consistency ssp:staleness=3 &
  psctl server --controller 127.0.0.1:7070 &
  psctl worker --controller 127.0.0.1:7070 train.py &
  psctl worker --controller 127.0.0.1:7070 train.py
"""


def options() -> list[inspect.Parameter]:
    """The flags: where it listens, then those of a run."""
    return [
        parameter("host", str, typer.Option("127.0.0.1", metavar="HOST", help="Where it listens.")),
        parameter("port", int, typer.Option(PORT, metavar="PORT", min=0, max=65535, help="0: any free one.")),
        parameter(
            "insecure", bool, typer.Option(False, "--insecure", help="Trust everybody in the network that reaches it.")
        ),
        key_option(),
        file_option(),
        *config_options(),
        *rule_options(),
        text_option("save", "FILE", "Write the values there at the end of the job (safetensors)."),
        text_option("log_dir", "DIR", f"For a folder of logs. [default: {LOG_DIR}]"),
        log_to_option(),
        parameter("quiet", bool, typer.Option(False, "--quiet", help="No progress.")),
    ]


@one_line("controller")
def controller(**given: Any) -> int:
    """Checks the flags and runs it."""
    options, places = with_file(given, ControllerFile)
    own = {name: options.pop(name) for name in ("save", "log_dir") if name in options}
    stops = [options.pop(name, None) for name in ("stop_after", "stop_when", "patience")]
    log_to = options.pop("log_to", LOG_TO)
    with naming_lines(places):
        sinks = sinks_of(log_to)
        key = key_in(options.pop("key", None))
        checked, rules = checked_config(options), rules_of(*stops)
        if own.get("save") is not None:
            check_target(own["save"])
    check_reach("--host", given["host"], given.pop("insecure"), key)
    return run_controller(checked, rules, sinks, ControllerOptions(**given, **own, key=key))


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("controller", help=CONTROLLER_HELP)(with_parameters(controller, options()))
