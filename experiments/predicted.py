"""How far predictions are off: declared compute on hosts with links, measured and predicted, as a table of Markdown.

    python experiments/predicted.py --hosts 2 4 --rates 100 1000 --out predicted    # root and netlab on PATH

Each host has a worker and a server. Both ways use the same experiment files: `psctl sweep` measures on netlab,
`psctl simulate --profile` predicts, by profiles that are measured here first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean, median

from ps.cli.sweep import run_sweep
from ps.experiments.results import Results, read_results
from ps.experiments.tables import Row, Table, markdown
from ps.predict.measure import WARM_UP, measure
from ps.predict.profile import Measured
from ps.predict.simulate import predict_experiment

SCRIPT = Path(__file__).with_name("declared.py")
COMPRESSIONS = ("none", "onebit")
INTERRUPTED = 130
FILE = """
name = "predicted-{hosts}-{rate:g}"
script = "{script}"
args = ["--kb", "{kb}", "--clocks", "{clocks}"]
world = "netlab"
seeds = [1]
timeout_s = 300.0

[run]
workers = {hosts}
servers = "colocated"
compute_s = {compute_s}
trace = true

[links]
rate_mbit = {rate}
delay_ms = {delay_ms}

[grid]
consistency = ["bsp", "async"]
compression = ["none", "onebit"]

[report]
metric = "clocks"
best = "max"
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


def rows(args: argparse.Namespace, hosts: int, rate: float, profiles: list[Measured]) -> list[Row]:
    """Measures and predicts all arms on so many hosts, with links of so many Mbit/s."""
    folder: Path = args.out / f"{hosts}-hosts-{rate:g}-mbit"
    file = args.out / f"{folder.name}.toml"
    options = {"compute_s": args.compute_s, "kb": args.kb, "clocks": args.clocks, "delay_ms": args.delay_ms}
    text = FILE.format(script=SCRIPT, hosts=hosts, rate=float(rate), **options)
    file.write_text(text)
    if (code := run_sweep(file, folder, 1)) == INTERRUPTED:
        sys.exit(code)
    results = read_results(folder)
    found: list[Row] = []
    for one in predict_experiment(results.experiment, file.parent, profiles, args.clocks):
        real = step_s(results, one.arm)
        off = [f"{100 * (one.clock_s / real_s - 1):+.1f} %" for real_s in real]
        figures = (*(f"{1e3 * real_s:.1f}" for real_s in real), f"{1e3 * one.clock_s:.1f}", *off)
        found.append((str(hosts), f"{rate:g}", one.arm, *figures))
        print(*found[-1], sep=" | ", flush=True)
    return found


def main() -> None:
    """Profiles first, then row by row; the whole table last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 3, 4, 6])
    parser.add_argument("--rates", type=float, nargs="+", default=[100.0, 1000.0], help="Mbit/s")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--compute-s", type=float, default=0.05)
    parser.add_argument("--kb", type=int, default=1600)
    parser.add_argument("--clocks", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("predicted"), help="a folder for files and results")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    own = ["--kb", str(args.kb)]
    profiles = [
        measure(str(SCRIPT), own, {"compute_s": args.compute_s, "compression": one}, with_check=False)
        for one in COMPRESSIONS
    ]
    found = [row for hosts in args.hosts for rate in args.rates for row in rows(args, hosts, rate, profiles)]
    head = ("hosts", "Mbit/s", "arm", "median ms", "mean ms", "predicted ms", "of the median", "of the mean")
    print(markdown(Table("Predicted", head, tuple(found))))


if __name__ == "__main__":
    main()
