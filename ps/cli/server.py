"""`psctl server`: one server process in the foreground."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from ps.addresses import is_every_address, split_address
from ps.cli.common import check_reach, one_line, parameter, with_parameters
from ps.cli.flags import controller_option, file_option, key_option, needed_controller, text_option, with_file
from ps.errors import ConfigError
from ps.key import VARIABLE, key_in
from ps.launch.asked import Asked
from ps.launch.files import ServerFile
from ps.launch.options import naming_lines

LISTEN = "127.0.0.1:0"
SERVER_HELP = """Hold a share of a cluster's values until its job is over.

Exit code 1 when the job failed. PS_SHARD asks for a certain shard, PS_JOB joins no other job than that. SIGTERM ends
it, with code 143, and the job with it, as there is no other copy of the values that it holds: everybody is told why.
"""


@one_line("server")
def server(**given: Any) -> int:
    """Checks the flags and serves."""
    options, places = with_file(given, ServerFile)
    listen, advertise = options.get("listen", LISTEN), options.get("advertise", "")
    with naming_lines(places):
        controller = needed_controller(options.get("controller"))
        host, _ = split_address("--listen", listen)
        key = key_in(options.get("key"))
        check_reach("--listen", host, options.get("insecure", False), key)
        if is_every_address(host) and not advertise:
            raise ConfigError(f"--advertise: expected the host that others dial, as --listen {listen} is none; name it")
    os.environ["PS_CONTROLLER"] = controller
    if key is not None:
        os.environ[VARIABLE] = key.path
    if os.getcwd() not in sys.path:  # plug-ins of one's own, `package.module:Class`
        sys.path.append(os.getcwd())
    try:
        with Asked() as asked:
            from ps.launch.server import serve  # late: arrays and sockets, for which a wrong flag need not wait

            end = serve(listen, advertise, asked)
    except KeyboardInterrupt:  # the second one
        return 130
    reason = f"asked to stop by {asked.by}; the controller has not said goodbye in time" if end is None else end.reason
    print(f"psctl server: {reason}", file=sys.stderr)
    return 128 + asked.number if asked.by else int(end is not None and end.failed)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    options = [
        controller_option(),
        key_option(),
        file_option(),
        text_option("listen", "HOST:PORT", f"For workers; port 0: any free one. [default: {LISTEN}]"),
        text_option("advertise", "HOST", "The host that others dial, if it is another one."),
        parameter(
            "insecure",
            bool | None,
            typer.Option(None, "--insecure", help="Trust everybody who can reach --listen.", show_default=False),
        ),
    ]
    app.command("server", help=SERVER_HELP)(with_parameters(server, options))
