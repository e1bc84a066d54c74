"""`psctl server`: one server process in the foreground."""

from __future__ import annotations

import os
import sys

import typer

from ps.addresses import is_every_address, split_address
from ps.cli.common import check_reach, one_line
from ps.control.commands import check_address
from ps.errors import ConfigError


@one_line("server")
def server(
    controller: str = typer.Option(
        ..., envvar="PS_CONTROLLER", metavar="HOST:PORT", help="Where the controller listens.", show_envvar=False
    ),
    listen: str = typer.Option("127.0.0.1:0", metavar="HOST:PORT", help="For workers; port 0: any free one."),
    advertise: str = typer.Option("", metavar="HOST", help="The host that others dial, if it is another one."),
    insecure: bool = typer.Option(False, "--insecure", help="Trust everybody who can reach --listen."),
) -> int:
    """Hold a share of a cluster's values until its job is over.

    Exit code 1 when the job failed. PS_SHARD asks for a certain shard, PS_JOB joins no other job than that.
    """
    check_address("--controller", controller)
    host, _ = split_address("--listen", listen)
    check_reach("--listen", host, insecure)
    if is_every_address(host) and not advertise:
        raise ConfigError(f"--advertise: expected the host that others dial, as --listen {listen} is none; name it")
    os.environ["PS_CONTROLLER"] = controller
    if os.getcwd() not in sys.path:  # plug-ins of one's own, `package.module:Class`
        sys.path.append(os.getcwd())
    from ps.launch.server import serve  # late: it brings arrays and sockets, which a wrong flag need not wait for

    try:
        end = serve(listen, advertise)
    except KeyboardInterrupt:
        return 130
    reason = "" if end is None else end.reason
    print(f"psctl server: {reason}", file=sys.stderr)
    return int(end is not None and end.failed)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("server")(server)
