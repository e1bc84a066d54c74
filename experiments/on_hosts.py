"""What predicted.py and recommended.py share: declared computing on netlab hosts, each with a worker and a server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from ps.cli.sweep import run_sweep
from ps.experiments.results import Results, read_results
from ps.predict.measure import measure
from ps.predict.profile import Measured

SCRIPT = Path(__file__).with_name("declared.py")
INTERRUPTED = 130
FILE = """
name = "{name}-{hosts}-{rate:g}"
script = "{script}"
args = ["--kb", "{kb}", "--clocks", "{clocks}"]
world = "netlab"
seeds = [1]
timeout_s = 300.0

[links]
rate_mbit = {rate}
delay_ms = {delay_ms}

[report]
metric = "clocks"
best = "max"

[run]
workers = {hosts}
servers = "colocated"
compute_s = {compute_s}
"""


def arguments(doc: str | None, name: str, hosts: list[int], compute_s: float, clocks: int) -> argparse.Namespace:
    """Of the command line, with these defaults; the folder --out is there."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=hosts)
    parser.add_argument("--rates", type=float, nargs="+", default=[100.0, 1000.0], help="Mbit/s")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--compute-s", type=float, default=compute_s)
    parser.add_argument("--kb", type=int, default=1600)
    parser.add_argument("--clocks", type=int, default=clocks)
    parser.add_argument("--out", type=Path, default=Path(name), help="a folder for files and results")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def profiles(args: argparse.Namespace, compressions: Iterable[str]) -> dict[str, Measured]:
    """What a step of the script is made of, by compression."""
    own = ["--kb", str(args.kb)]
    return {
        one: measure(str(SCRIPT), own, {"compute_s": args.compute_s, "compression": one}, with_check=False)
        for one in compressions
    }


def run(args: argparse.Namespace, name: str, hosts: int, rate: float, more: str) -> Results:
    """Sweeps over what `more` adds to the file, on so many hosts with links of so many Mbit/s."""
    folder: Path = args.out / f"{hosts}-hosts-{rate:g}-mbit"
    file = args.out / f"{folder.name}.toml"
    options = {"compute_s": args.compute_s, "kb": args.kb, "clocks": args.clocks, "delay_ms": args.delay_ms}
    file.write_text(FILE.format(name=name, script=SCRIPT, hosts=hosts, rate=rate, **options) + more)
    if (code := run_sweep(file, folder, 1)) == INTERRUPTED:
        sys.exit(code)
    return read_results(folder)
