"""`psctl recommend`: which setting a script should be run with on so many hosts."""

from __future__ import annotations

import typer

from ps.cli.common import one_line
from ps.errors import ConfigError
from ps.experiments.files import Link
from ps.launch.options import check_script
from ps.predict.measure import measure, observe_bare
from ps.predict.recommend import COMPRESSIONS, advise, check_servers, in_lines, loopback_mbit

RATE_HELP = "Of each host's link. [default: that of this machine with itself, measured]"
SERVERS_HELP = "Those to compare: colocated, one beside each worker; a number, on the first hosts."
HOSTS_HELP = "Each has one worker."
OPTIMIZER_HELP = "Of the servers: sgd:lr=0.1, ... [default: the script's own]"


@one_line("recommend")
def recommend(
    script: str = typer.Argument(..., metavar="SCRIPT", help="A Python file.", show_default=False),
    args: list[str] = typer.Argument(None, metavar="ARGS", help="Its own.", show_default=False),
    hosts: int = typer.Option(..., metavar="N", min=2, max=64, help=HOSTS_HELP, show_default=False),
    rate_mbit: float | None = typer.Option(None, metavar="R", help=RATE_HELP, show_default=False),
    delay_ms: float = typer.Option(0.0, metavar="D", min=0.0, help="Between two hosts, one way."),
    servers: str = typer.Option("colocated,1", metavar="S,...", help=SERVERS_HELP),
    optimizer: str | None = typer.Option(None, metavar="SPEC", help=OPTIMIZER_HELP, show_default=False),
) -> int:
    """Measure SCRIPT for up to a minute, simulate a few settings on N hosts, and print the three fastest.

    It predicts seconds per step, not steps to a quality. Flags come before SCRIPT.
    """
    if rate_mbit is not None and not 0 < rate_mbit < float("inf"):
        raise ConfigError(f"--rate-mbit: expected a finite number > 0, got {rate_mbit}")
    check_script("SCRIPT", script)
    check_servers(servers.split(","), hosts)
    link = Link(rate_mbit=loopback_mbit() if rate_mbit is None else rate_mbit, delay_ms=delay_ms)
    own, given, bare = args or [], {} if optimizer is None else {"optimizer": optimizer}, observe_bare()
    profiles = {
        codec: measure(script, own, {**given, "compression": codec}, bare, with_check=codec == "none")
        for codec in COMPRESSIONS
    }
    whence = "between processes of this machine" if rate_mbit is None else "as given"
    print(f"{hosts} hosts, {link.rate_mbit:,.0f} Mbit/s ({whence}), {delay_ms:g} ms one way")
    advice = advise(profiles, hosts, link, servers.split(","), optimizer)
    print(*in_lines(advice, hosts, [script, *own], optimizer), sep="\n")
    return 0


def add_to(app: typer.Typer) -> None:
    """Adds the command; what follows SCRIPT is its own."""
    app.command("recommend", context_settings={"allow_interspersed_args": False})(recommend)
