"""`psctl status`: what a cluster is doing, as a table or as JSON."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from ps.cli.common import CONTROLLER_HELP, key_flag, one_line
from ps.control.commands import fetch_status
from ps.errors import DeadlineError
from ps.key import key_in

WATCH_S = 1.0
CLEAR = "\x1b[H\x1b[2J"  # cursor to the top, nothing below it


@one_line("status")
def status(
    controller: str = typer.Argument(
        ..., envvar="PS_CONTROLLER", metavar="HOST:PORT", help=CONTROLLER_HELP, show_default=False, show_envvar=False
    ),
    key: str = key_flag(),
    watch: bool = typer.Option(False, "--watch", help="Again every second, until the job is over."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object (with --watch: a line each), for programs."),
) -> int:
    """Show what the cluster of a controller is doing.

    Exit code 1, with one line, when nobody answers there. --watch ends with the job, or when the controller has left.
    """
    checked = key_in(key)
    seen: Mapping[str, Any] | None = None
    while True:
        try:
            seen = fetch_status(controller, key=checked)
        except DeadlineError:
            if seen is None:
                raise
            print(f"the controller at {controller} has left: its job is over, or it was ended", flush=True)
            return 0
        if as_json:
            print(json.dumps(seen), flush=True)
        else:
            print((CLEAR if watch and sys.stdout.isatty() else "") + report(seen), flush=True)
        if not watch or seen["stopped"] is not None:
            return 0
        time.sleep(WATCH_S)


def report(seen: Mapping[str, Any]) -> str:
    """The tables of workers, servers and agents, and lines on the job."""
    workers = [("worker", "state", "clock", "silent for", "logged")]
    for worker in seen["workers"]:
        silent = "-" if worker["silent_s"] < 0 else f"{worker['silent_s']:.1f} s"
        logged = " ".join(f"{name}={value:.4g}" for name, value in worker["logged"].items())
        workers.append((str(worker["rank"]), worker["state"], str(worker["clock"]), silent, logged or "-"))
    servers = [("server", "state", "address")]
    servers += [(str(server["shard"]), server["state"], server["address"] or "-") for server in seen["servers"]]
    agents = [("agent", "state", "worker", "runs scripts of")]
    for agent in seen.get("agents", ()):
        who, rank = f"{agent['host']}, pid {agent['pid']}", "-" if agent["rank"] < 0 else str(agent["rank"])
        agents.append((who, agent["state"], rank, agent["directory"]))
    state = "running"
    if seen["stopped"] is not None:
        state = ("failed: " if seen["failed"] else "stopped: ") + str(seen["stopped"]).partition("\n")[0]
    job = f"job {state}; refused peers: {seen['refused']}; rejected messages: {seen['rejected']}"
    if (submitted := seen.get("submitted")) is not None:
        what = shlex.join([submitted["script"], *submitted["args"]])
        job = f"{'' if submitted['begun'] else 'not begun: '}{what}, submitted by {submitted['by']}\n{job}"
    if (bill := seen.get("memory")) is not None:
        job = f"memory: {bill['words']}\n{job}"
    more = [*aligned(agents), ""] if len(agents) > 1 else []
    return "\n".join([*aligned(workers), "", *aligned(servers), "", *more, job])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("status")(status)
