"""`psctl profile`: what one step of a script is made of, for simulations without payload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ps.cli.common import one_line, parameter, with_parameters
from ps.cli.run import config_options
from ps.predict.measure import measure
from ps.predict.profile import Costs, Measured, write_profile

OUT = "profile.json"
OWN = ("servers", "workers", "consistency", "trace")  # of the runs that measure, not the user's to choose
PROFILE_HELP = """Measure what one step of SCRIPT is made of, by three short runs on this machine.

Flags are those of psctl run, but for the servers, workers and consistency of those runs. The file is for
psctl simulate --profile.

\b
Example:
  psctl profile --compression onebit -o onebit.json train.py --batch 64
"""


@one_line("profile")
def profile(**given: Any) -> int:
    """Measures, writes, and says what came out."""
    out, script, args = Path(given.pop("out")), given.pop("script"), given.pop("args") or ()
    found = measure(script, args, {name: text for name, text in given.items() if text is not None})
    write_profile(found, out)
    print(in_words(found))
    print(out)
    return 0


def in_words(found: Measured) -> str:
    """A few lines."""
    low, high = found.compute_s[0], found.compute_s[-1]
    lines = [
        f"{len(found.parameters)} parameters, {found.nbytes / 1e6:.2f} MB; of these {100 * found.push_share:.3g} % are "
        f"pushed and {100 * found.pull_share:.3g} % pulled ({found.codec})",
        f"compute: {1e3 * found.mean_compute_s:.3g} ms a step, {1e3 * low:.3g} to {1e3 * high:.3g}",
    ]
    for name in Costs.model_fields:
        cost = getattr(found.costs, name)
        lines.append(f"{name}: {cost.median:.3g}, {cost.low:.3g} to {cost.high:.3g}")
    if found.check is not None:
        lines.append(
            f"two workers: {1e3 * found.check.measured_s:.3g} ms a step, predicted "
            f"{1e3 * found.check.predicted_s:.3g} ms"
        )
    return "\n".join(lines)


def add_to(app: typer.Typer) -> None:
    """Adds the command; what follows SCRIPT is its own."""
    out = typer.Option(OUT, "--out", "-o", metavar="FILE", help="Where the profile goes.")
    parameters = [
        parameter("out", str, out),
        *(one for one in config_options() if one.name not in OWN),
        parameter("script", str, typer.Argument(..., metavar="SCRIPT", help="A Python file.", show_default=False)),
        parameter("args", list[str], typer.Argument(None, metavar="ARGS", help="Its own.", show_default=False)),
    ]
    command = with_parameters(profile, parameters)
    app.command("profile", help=PROFILE_HELP, context_settings={"allow_interspersed_args": False})(command)
