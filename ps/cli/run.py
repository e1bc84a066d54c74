"""`psctl run`: the flags of a run, those of RunConfig among them, under the same names."""

from __future__ import annotations

import inspect
import math
from typing import Any

import typer

from ps.cli.common import one_line, parameter, with_parameters
from ps.cli.flags import file_option, key_option, log_to_option, text_option, with_file
from ps.config import SPELLED, RunConfig
from ps.launch.files import RunFile
from ps.launch.options import LOG_DIR, RunOptions
from ps.launch.run import run_cluster

# RunConfig's fields in words; their types, ranges and defaults are read from it.
CONFIG_HELP = {
    "servers": "Server processes; each holds a share of the values. colocated: one beside each worker.",
    "workers": "Worker processes; each runs SCRIPT.",
    "consistency": "Who waits for whom: bsp, ssp:staleness=3, async, ...",
    "optimizer": "What servers do with gradients: sgd:lr=0.1, momentum:lr=0.1,decay=0.9, adagrad:lr=0.1, ...",
    "schedule": "Learning rate over clocks.",
    "slice_elements": "Parameters are cut into slices of so many elements, which servers share out: less spreads more.",
    "clip_norm": "Largest norm of a worker's whole gradient.",
    "clip_value": "Largest value of each element, at the server.",
    "compression": "Codec of both directions, as far as each is safe: onebit, int8, fp16, topk:ratio=0.01, ...",
    "push_compression": "Codec of gradients. [default: that of --compression]",
    "pull_compression": "Codec of values. [default: that of --compression, where it is safe]",
    "on_worker_loss": "wait or drop: whether others wait for a lost worker. With --max-restarts it is wait.",
    "epoch_share": "A data epoch ends when this share of the workers is through.",
    "seed": "Of all that is random.",
    "compute_s": "To try things out: each step is made to compute so many seconds, by sleeping.",
    "stragglers": "To try things out: transient:chance=0.05,factor=8, persistent:factor=4, speeds:of=1/1/2/4, ...",
    "timeout_s": "Deadline of every call, in seconds.",
    "resend_s": "Unanswered messages are sent again after so many seconds, then ever later.",
    "lease_s": "A worker without progress for so many seconds is lost.",
    "restart_s": "Under wait: a lost worker must be back after so many seconds.",
    "inflight_clocks": "Clocks whose pushes a worker keeps until their verdict.",
    "trace": "Keep what each worker and server did last, for psctl trace.",
}

METAVARS = {
    "servers": "N|colocated",
    "on_worker_loss": "wait|drop",
    "clip_norm": "X",
    "clip_value": "X",
    "seed": "N",
}  # where no plain type says it
KINDS: dict[Any, str] = {int: "N", float: "X", bool: "BOOL"}

RUN_HELP = """Run SCRIPT on a cluster of processes on this machine.

It starts servers, and workers whose SCRIPT calls ps.connect().

Flags after SCRIPT are the script's own. The exit code is that of the first process that fails, and its traceback is
the last thing you see. Ctrl-C ends everything.

\b
Examples:
  psctl run --servers 2 --workers 4 train.py --epochs 3
  psctl run --workers 4 --consistency ssp:staleness=3 --optimizer adagrad:lr=0.1 \\
      --stop-when 'val_acc>=0.97' --save model.safetensors train.py
"""


def config_options() -> list[inspect.Parameter]:
    """A flag for each field. Values are passed on as they are spelled: RunConfig checks them, in one wording."""
    made = []
    for name in SPELLED:
        info = RunConfig.model_fields[name]
        default = info.default
        shown = "" if default is None or default == math.inf else f" [default: {str(default).lower()}]"
        flag = f"--{name.replace('_', '-')}"
        metavar = METAVARS.get(name) or KINDS.get(info.annotation, "SPEC")
        option = typer.Option(None, flag, help=f"{CONFIG_HELP[name]}{shown}", metavar=metavar, show_default=False)
        made.append(parameter(name, str | None, option))
    return made


def rule_options() -> list[inspect.Parameter]:
    """When a run is to stop."""
    patience = "Stop after N reports of NAME without a better one; 'loss' or 'err': lower is better."
    return [
        text_option("stop_after", "GOAL", "10epochs (that scripts log as `epoch`), 5000clocks or 600s."),
        text_option("stop_when", "TEST", "Stop when a worker logs such a value: 'val_acc>=0.97'."),
        text_option("patience", "NAME:N", patience),
    ]


def run_options() -> list[inspect.Parameter]:
    """The flags that only the launcher looks at, and SCRIPT with its arguments."""
    evaluator = "A script that reads the values beside the workers, never counted: role `reader`."
    return [
        text_option("save", "FILE", "Write the values there at the end (safetensors)."),
        text_option("record", "DIR", "A new folder: servers write down there what they apply, for psctl replay."),
        *rule_options(),
        text_option("evaluator", "FILE", evaluator),
        parameter(
            "max_restarts",
            int | None,
            typer.Option(None, metavar="N", help="Of each worker whose process dies. [default: 0]", show_default=False),
        ),
        text_option("log_dir", "DIR", f"For a folder of logs for each run. [default: {LOG_DIR}]"),
        log_to_option(),
        parameter("quiet", bool, typer.Option(False, "--quiet", help="No progress, only what scripts print.")),
        parameter("script", str, typer.Argument(..., metavar="SCRIPT", help="A Python file.", show_default=False)),
        parameter("args", list[str], typer.Argument(None, metavar="ARGS", help="Its own.", show_default=False)),
    ]


@one_line("run")
def run(**given: Any) -> int:
    """Hands the options on; the exit code."""
    options, places = with_file(given, RunFile)
    config = {name: options.pop(name) for name in RunConfig.model_fields if name in options}
    args = tuple(given.pop("args") or ())
    return run_cluster(RunOptions(args=args, config=config, places=places, **options, **given))


def add_to(app: typer.Typer) -> None:
    """Adds the command. typer reads flags from a signature, which is made here from RunConfig's fields."""
    command = with_parameters(run, [key_option(), file_option(), *config_options(), *run_options()])
    # SCRIPT ends our flags: what follows is its own.
    app.command("run", help=RUN_HELP, context_settings={"allow_interspersed_args": False})(command)
