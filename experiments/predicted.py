"""How far predictions are off: declared compute on hosts with links, measured and predicted, as a table of Markdown.

    python experiments/predicted.py --hosts 2 4 --rates 100 1000 --out predicted    # root and netlab on PATH

Each host has a worker and a server. Both ways use the same experiment files: `psctl sweep` measures on netlab,
`psctl simulate --profile` predicts, by profiles that are measured here first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from statistics import mean, median

from on_hosts import arguments, profiles, run  # type: ignore[import-not-found]  # beside this script

from ps.experiments.results import Results
from ps.experiments.tables import Row, Table, markdown
from ps.predict.measure import WARM_UP
from ps.predict.profile import Measured
from ps.predict.simulate import predict_experiment

COMPRESSIONS = ("none", "onebit")
MORE = """
trace = true

[grid]
consistency = ["bsp", "async"]
compression = ["none", "onebit"]
"""


def step_s(results: Results, arm: str) -> tuple[float, float]:
    """Median and mean seconds of a step, over all workers and seeds of an arm; NaN where it has failed."""
    found = [
        span.end - span.start
        for run in results.final(arm)
        for peer, snapshot in run.peers.items()
        if run.problem is None and peer.startswith("worker:")
        for span in [span for span in snapshot.spans if span.name == "step"][WARM_UP:]
    ]
    return (median(found), mean(found)) if found else (float("nan"), float("nan"))


def rows(args: argparse.Namespace, hosts: int, rate: float, known: Iterable[Measured]) -> list[Row]:
    """Measures and predicts all arms on so many hosts, with links of so many Mbit/s."""
    results: Results = run(args, "predicted", hosts, rate, MORE)
    found: list[Row] = []
    for one in predict_experiment(results.experiment, args.out, known, args.clocks):
        real = step_s(results, one.arm)
        off = [f"{100 * (one.clock_s / real_s - 1):+.1f} %" for real_s in real]
        figures = (*(f"{1e3 * real_s:.1f}" for real_s in real), f"{1e3 * one.clock_s:.1f}", *off)
        found.append((str(hosts), f"{rate:g}", one.arm, *figures))
        print(*found[-1], sep=" | ", flush=True)
    return found


def main() -> None:
    """Profiles first, then row by row; the whole table last."""
    args = arguments(__doc__, "predicted", hosts=[2, 3, 4, 6], compute_s=0.05, clocks=100)
    known = profiles(args, COMPRESSIONS).values()
    found = [row for hosts in args.hosts for rate in args.rates for row in rows(args, hosts, rate, known)]
    head = ("hosts", "Mbit/s", "arm", "median ms", "mean ms", "predicted ms", "of the median", "of the mean")
    print(markdown(Table("Predicted", head, tuple(found))))


if __name__ == "__main__":
    main()
