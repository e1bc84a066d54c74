"""`psctl key`: makes the one file that the members of a cluster share."""

from __future__ import annotations

import typer

from ps.cli.common import one_line
from ps.key import make_key


@one_line("key")
def key(
    file: str = typer.Argument(..., metavar="FILE", help="A new file.", show_default=False),
) -> int:
    """Make a cluster's key: copy FILE to every host, and give it to all commands as --key FILE, or in PS_KEY.

    Who has the file belongs to the cluster: may join it, submit to it, stop it. Only you may read it; it is never
    overwritten.
    """
    make_key(file)
    print(f"{file}: the key of a cluster. Copy it to every host (scp -p), and give all commands --key {file}")
    return 0


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("key")(key)
