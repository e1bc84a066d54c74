"""How good `psctl recommend` is: all settings that it looks at, run on hosts with links, beside what it says of them.

    python experiments/recommended.py --hosts 3 4 --rates 100 1000 --out recommended    # root and netlab on PATH

Each host has a worker and a server, computing is declared. Seconds per step are means. The last lines say how much
longer a step of the recommended setting takes than one of the setting that was the fastest when all were run.
"""

from __future__ import annotations

import argparse
from math import isfinite

from on_hosts import arguments, profiles, run  # type: ignore[import-not-found]  # beside this script

from ps.colocated import COLOCATED
from ps.experiments.files import Link
from ps.experiments.measures import steps_per_s
from ps.experiments.results import Results
from ps.experiments.tables import Row, Table, markdown
from ps.predict.profile import Measured
from ps.predict.recommend import COMPRESSIONS, Rated, advise

ARM = """
[[compare]]
name = "{setting.consistency}, {setting.compression}"
consistency = "{setting.consistency}{steps}"
compression = "{setting.compression}"
"""


def arm(one: Rated) -> str:
    """As the file has it. The script takes no steps of its own, so the workers do."""
    return ARM.format(setting=one.setting, steps=",local_lr=0.1" if one.setting.consistency.startswith("local") else "")


def measured_s(results: Results, one: Rated) -> float:
    """Mean seconds of a step of a setting; NaN where its run has failed."""
    runs = results.final(f"{one.setting.consistency}, {one.setting.compression}")
    return next((run.cell.config.workers / steps_per_s(run) for run in runs if run.problem is None), float("nan"))


def compare(args: argparse.Namespace, hosts: int, rate: float, known: dict[str, Measured]) -> tuple[list[Row], str]:
    """Runs all settings on so many hosts, with links of so many Mbit/s; a row for each, and the verdict."""
    advice = advise(known, hosts, Link(rate_mbit=rate, delay_ms=args.delay_ms), [COLOCATED])
    results: Results = run(args, "recommended", hosts, rate, "".join(arm(one) for one in advice.rated))
    found: list[Row] = []
    took = [measured_s(results, one) for one in advice.rated]
    for one, real_s in zip(advice.rated, took, strict=True):
        clock_s = one.predicted.clock_s
        figures = (f"{1e3 * real_s:.1f}", f"{1e3 * clock_s:.1f}", f"{100 * (clock_s / real_s - 1):+.1f} %")
        found.append((str(hosts), f"{rate:g}", one.setting.consistency, one.setting.compression, *figures))
        print(*found[-1], sep=" | ", flush=True)
    ended = [(real_s, one.setting) for real_s, one in zip(took, advice.rated, strict=True) if isfinite(real_s)]
    best_s, best = min(ended, key=lambda pair: pair[0])
    said = f"{hosts} hosts, {rate:g} Mbit/s: recommended {advice.rated[0].setting}, {1e3 * took[0]:.1f} ms a step; "
    return found, said + f"the best is {best}, {1e3 * best_s:.1f} ms: {100 * (took[0] / best_s - 1):.1f} % more"


def main() -> None:
    """Profiles first, then setting by setting; the table and the verdicts last."""
    args = arguments(__doc__, "recommended", hosts=[3, 4], compute_s=0.1, clocks=60)
    known = profiles(args, COMPRESSIONS)
    found = [compare(args, hosts, rate, known) for hosts in args.hosts for rate in args.rates]
    head = ("hosts", "Mbit/s", "consistency", "compression", "measured ms", "predicted ms", "error")
    print(markdown(Table("All settings", head, tuple(row for rows, _ in found for row in rows))))
    print(*(verdict for _, verdict in found), sep="\n")


if __name__ == "__main__":
    main()
