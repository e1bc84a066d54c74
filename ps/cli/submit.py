"""`psctl submit`: hands a job to a controller's agents and follows it."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress

import typer

from ps.cli.common import key_flag, one_line
from ps.cli.flags import ADDRESS, DIAL_HELP, needed_controller
from ps.control import control_pb2 as pb
from ps.control.agents import submit as submit_job
from ps.key import key_in

SUBMIT_HELP = """Run SCRIPT on the agents of a cluster, and follow it.

SCRIPT is a file in the directory of each agent (`psctl worker` without a script), what follows it are its arguments;
no code is sent. Clocks and logged metrics are printed as they come. The exit code is that of the job: 0, or that of the
first worker that failed, whose traceback is the last thing you see. Ctrl-C ends the following, not the job: that is
`psctl stop`.

\\b
Example:
  psctl controller --servers 1 --workers 2 &
  psctl server --controller 127.0.0.1:7070 &
  psctl worker --controller 127.0.0.1:7070 --directory scripts &     (on each machine)
  psctl worker --controller 127.0.0.1:7070 --directory scripts &
  psctl submit --controller 127.0.0.1:7070 train.py --epochs 3
"""


@one_line("submit")
def submit(
    controller: str = typer.Option(None, envvar="PS_CONTROLLER", metavar=ADDRESS, help=DIAL_HELP, show_envvar=False),
    key: str = key_flag(),
    detach: bool = typer.Option(False, "--detach", help="Return as soon as the controller has taken the job."),
    script: str = typer.Argument(..., metavar="SCRIPT", help="A Python file of the agents.", show_default=False),
    args: list[str] = typer.Argument(None, metavar="ARGS", help="Its own.", show_default=False),
) -> int:
    """Prints what the controller says; the job's exit code."""
    address = needed_controller(controller)
    checked = key_in(key)
    try:
        for reply in submit_job(address, script, list(args or ()), checked):
            if reply.HasField("accepted"):
                _say_accepted(reply.accepted, shlex.join([script, *(args or ())]))
                if detach:
                    return 0
            elif reply.HasField("ended"):
                return _say_end(reply.ended)
            elif reply.HasField("note"):
                print(f"ps: {reply.note}", file=sys.stderr, flush=True)
            else:
                print(reply.progress, flush=True)
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt):
            print(f"ps: the job goes on; to end it: psctl stop {address}", file=sys.stderr, flush=True)
        return 130
    raise AssertionError("the last reply is an end")


def _say_accepted(accepted: pb.Accepted, job: str) -> None:
    waits = f"; waiting: {accepted.waits_for}" if accepted.waits_for else ""
    print(f"ps: job {accepted.job.hex()[:6]}: {job}{waits}", file=sys.stderr, flush=True)


def _say_end(end: pb.JobEnd) -> int:
    """As `psctl run` does: the traceback last."""
    what = "failed" if end.exit_code else "ended"
    print(f"ps: {what} after {end.seconds:.1f} s: {end.reason.partition(chr(10))[0]}", file=sys.stderr, flush=True)
    if end.last_words:
        print(*end.last_words, sep="\n", file=sys.stderr, flush=True)
    return int(end.exit_code)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    # SCRIPT ends our flags: what follows is its own.
    app.command("submit", help=SUBMIT_HELP, context_settings={"allow_interspersed_args": False})(submit)
