"""The first five minutes with ps: one network, three consistency models, four workers of which one is slow.

Trains a small network on real data under bsp, ssp and async, in two worlds: in virtual time, where the same seed gives
the same result, to the last bit; then as real processes over ZeroMQ, by `psctl run examples/digits.py`, with real
sleeps for the slow worker. Shows every worker meanwhile, and ends with a table and a plot. `make demo` installs what it
needs and runs it; by hand: pip install -e '.[demo]', then python examples/demo.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # sums are repeatable for a fixed number

from digits import (  # type: ignore[import-not-found]  # it stands beside this file
    HIDDEN,
    Data,
    accuracy,
    gradients,
    initial_values,
    load,
)
from matplotlib.figure import Figure
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

import ps
from ps.metrics import Histogram, Snapshot, merge, series

MODELS = ("bsp", "ssp:staleness=3", "async")
LR = 1.0  # one rate for all three models: it is meant for one mean gradient of all workers per clock
STEP_S = 0.010  # of one step: declared compute in virtual time, a sleep in processes
POINTS = 30  # evaluations per run in virtual time
DIGITS = Path(__file__).with_name("digits.py")  # what the processes run


# ---- one model in virtual time --------------------------------------------------------------------------------------
@dataclass
class Run:
    """One model in virtual time: what it is to do, and what has come out so far."""

    model: str
    steps: int  # of all workers together
    curve: list[tuple[float, float]] = field(default_factory=list)  # virtual seconds, test accuracy
    virtual_s: float = 0.0
    wall_s: float = 0.0
    metrics: list[tuple[str, Snapshot]] = field(default_factory=list)
    checksum: str = ""

    @property
    def staleness(self) -> Histogram | None:  # of all pushes, on all servers
        return merge(snapshot for _, snapshot in self.metrics).histograms.get(series("staleness"))


def train(client: ps.Client, cluster: ps.LocalCluster, run: Run, pile: Iterator[int], data: Data, slow: float) -> None:
    """What every worker does; the same lines under every model."""
    client.register(initial_values(data.train[0].shape[1], client.seed))
    step_s = STEP_S * slow if client.rank == client.size - 1 else STEP_S
    batches = ps.data.shard(data.train, client, batch=data.batch, epochs=run.steps)  # endless: the pile ends first
    # One pile of steps for all: who is ready takes the next one, so that all models do the same work.
    for step, (images, labels) in zip(pile, batches, strict=False):
        values = client.pull()  # waits as the model says
        if step % max(1, run.steps // POINTS) == 0:  # takes no virtual time
            run.curve.append((cluster.status()["virtual_seconds"], accuracy(values, data.test)))
        grads, _ = gradients(values, images, labels)
        client.spend(step_s)  # virtual time passes as declared, whatever this machine needs
        client.push(grads, weight=len(labels))
        client.tick()
    client.barrier()  # the accuracy is that of everybody's work


def run_model(run: Run, data: Data, view: View, args: argparse.Namespace) -> None:
    """One cluster from start to end."""
    options: dict[str, Any] = {"consistency": run.model, "optimizer": f"sgd:lr={LR}", "seed": args.seed}
    pile, started = iter(range(run.steps)), time.monotonic()
    with ps.LocalCluster(args.servers, args.workers, **options) as cluster:
        cluster.start(lambda client: train(client, cluster, run, pile, data, args.slow))
        show_virtual(run, view, cluster.status())
        while not is_over(cluster):
            run.metrics = cluster.metrics()
            show_virtual(run, view, cluster.status())
        cluster.results()  # raises what went wrong in a worker
        status = cluster.status()
        run.wall_s, run.virtual_s = time.monotonic() - started, status["virtual_seconds"]
        run.metrics, run.checksum = cluster.metrics(), cluster.checksum()
        run.curve.append((run.virtual_s, accuracy(cluster.pull(), data.test)))
        show_virtual(run, view, status)


def is_over(cluster: ps.LocalCluster) -> bool:
    """Waits a tenth of a second for the end."""
    with suppress(ps.DeadlineError):
        cluster.results(timeout=0.1)
        return True
    return cluster.status()["stopped"] is not None


# ---- one model as processes -----------------------------------------------------------------------------------------
@dataclass
class Processes:
    """One `psctl run`, as its run.jsonl tells it."""

    model: str
    clocks: list[int]  # finished, of each worker
    curve: list[tuple[float, float]] = field(default_factory=list)  # seconds of training, test accuracy
    seconds: float = 0.0  # of training, when worker 0 last said so
    wall_s: float = 0.0  # from the start of psctl to its end

    @property
    def name(self) -> str:
        return f"{self.model}, processes"

    @property
    def fast(self) -> int:  # clocks of the furthest of the fast workers; the last worker is the slow one
        return max(self.clocks[:-1], default=self.clocks[-1])

    def take(self, row: dict[str, Any]) -> None:
        """One line of run.jsonl."""
        if row.get("event") == "end":
            self.clocks = row["clocks"]
        elif row.get("rank") is not None:  # a value of a worker
            self.clocks[row["rank"]] = row["clock"]
            if row["name"] == "seconds":
                self.seconds = row["value"]
            elif row["name"] == "accuracy":
                self.curve.append((self.seconds, row["value"]))


def psctl_run(model: str, logs: str, args: argparse.Namespace) -> list[str]:
    """The command line: worker 0 logs `seconds` of training, and the run ends when it logs enough of them."""
    flags = {"servers": args.servers, "workers": args.workers, "consistency": model, "optimizer": f"sgd:lr={LR}"}
    ends = {"seed": args.seed, "stop-when": f"seconds>={args.seconds}", "log-dir": logs}
    script = [str(DIGITS), "--epochs=1000000", f"--slow={args.slow}", f"--step-ms={1000 * STEP_S}"]
    psctl = [sys.executable, "-m", "ps.cli.main", "run", "--quiet"]
    return [
        *psctl,
        *(f"--{name}={value}" for name, value in (flags | ends).items()),
        *script,
        *([f"--data={args.data}"] if args.data else []),
    ]


def new_rows(logs: Path) -> Iterator[list[dict[str, Any]]]:
    """What run.jsonl has got since the last look, without end; its folder is made by psctl."""
    while not (found := list(logs.glob("*/run.jsonl"))):
        yield []
    with found[0].open() as journal:
        rest = ""
        while True:
            *lines, rest = (rest + journal.read()).split("\n")
            yield [json.loads(line) for line in lines]


def run_processes(run: Processes, view: View, args: argparse.Namespace) -> None:
    """One cluster from start to end. Exits with psctl's last words when it fails."""
    logs = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    started, over, quiet = time.monotonic(), False, subprocess.DEVNULL
    with logs as folder, tempfile.TemporaryFile("w+") as said:
        rows = new_rows(Path(folder))
        with subprocess.Popen(psctl_run(run.model, folder, args), stdin=quiet, stdout=said, stderr=said) as psctl:
            try:
                while not over:
                    over = has_ended(psctl)  # first: what it wrote before its end is then among the rows
                    for row in next(rows):
                        run.take(row)
                    run.wall_s = time.monotonic() - started
                    show_processes(run, view, 1.0 if over else min(0.99, run.seconds / args.seconds))
            except BaseException:
                psctl.terminate()  # it ends everybody
                psctl.wait()
                raise
        if psctl.returncode:
            said.seek(0)
            sys.exit(f"demo: psctl run has failed with exit code {psctl.returncode}:\n{said.read()}")


def has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Waits a tenth of a second for it."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(0.1)
    return child.returncode is not None


# ---- what one sees --------------------------------------------------------------------------------------------------
class View:
    """Bars that move while it runs; where stdout is no terminal, a plain line for every quarter of it."""

    def __init__(self, console: Console, names: list[str]) -> None:
        name, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
        self.width = max(map(len, names))
        self.bars = Progress(name, BarColumn(20), note, console=console)
        self.bar = {name: self.bars.add_task(f"{name:{self.width}}", total=1.0, note="") for name in names}
        self.live = Live(self.bars, console=console) if console.is_interactive and sys.stdout.isatty() else None
        self.quarter = dict.fromkeys(names, 0)  # the last one told

    def show(self, name: str, share: float, note: str, clocks: list[int], *more: str) -> None:
        """Where this run is now: how much of it is done, and the clock of each worker."""
        note = f"{share:4.0%} {note}"
        if self.live is not None:
            rows = [f"  worker {rank}: clock {c:4}, {max(clocks) - c:3} behind" for rank, c in enumerate(clocks)]
            self.bars.update(self.bar[name], completed=share, note=note)
            self.live.update(self.bars if share >= 1 else Group(self.bars, *rows, *more), refresh=True)
        elif int(4 * share) > self.quarter[name]:
            self.quarter[name] = int(4 * share)
            print(f"{name:{self.width}} {note}, clocks {' '.join(map(str, clocks))}", flush=True)


def show_virtual(run: Run, view: View, status: dict[str, Any]) -> None:
    clocks = [worker["clock"] for worker in status["workers"]]
    note = f"{status['virtual_seconds']:6.2f} virtual s" + (f", accuracy {run.curve[-1][1]:.1%}" if run.curve else "")
    late = run.staleness
    more = [f"  staleness so far: median {late.percentile(50):g}, at most {late.max:g} commits"] if late else []
    view.show(run.model, sum(clocks) / run.steps, note, clocks, *more)


def show_processes(run: Processes, view: View, share: float) -> None:
    reached = f"{run.seconds:6.2f} s, accuracy {run.curve[-1][1]:.1%}" if run.curve else "starting"
    view.show(run.name, share, reached, run.clocks)


def waits(run: Run) -> str:
    """Who waited for whom, as the servers saw it; short waits are left out."""
    waited: dict[str, dict[str, float]] = {}  # waited for -> worker -> virtual seconds
    for _, snapshot in run.metrics:
        for (name, labels), histogram in snapshot.histograms.items():
            if name == "gate_wait" and histogram.sum > 0.05 + run.virtual_s / 100:
                by = waited.setdefault(dict(labels)["waited_for"], {})
                worker = dict(labels)["worker"]  # it waits on all servers at once: the longest wait counts, not the sum
                by[worker] = max(histogram.sum, by.get(worker, 0.0))
    means = {late: f"{sum(by.values()) / len(by):.1f} s" + " each" * (len(by) > 1) for late, by in waited.items()}
    ranks = {late: ",".join(sorted(by, key=int)) for late, by in waited.items()}
    return "\n".join(f"{ranks[late]} waited\n{means[late]} for {late}" for late in sorted(waited, key=int)) or "nobody"


def closing_table(runs: list[Run], real: list[Processes]) -> Table:
    """One column per model; both worlds, the processes last."""
    table = Table("in virtual time", *(run.model for run in runs), box=box.SIMPLE_HEAD)
    workers = [merge(snapshot for peer, snapshot in run.metrics if peer.startswith("worker:")) for run in runs]
    late = [[run.staleness.percentile(p) for p in (50, 95, 100)] if run.staleness else [] for run in runs]
    table.add_row("test accuracy", *(f"{run.curve[-1][1]:.1%}" for run in runs))
    table.add_row("virtual seconds", *(f"{run.virtual_s:.2f}" for run in runs))
    table.add_row("wall seconds", *(f"{run.wall_s:.2f}" for run in runs))
    for name, metric, way in (("payload pushed", "push_bytes", "sent"), ("payload pulled", "pull_bytes", "received")):
        table.add_row(name, *(f"{peers.total(metric, direction=way) / 1e6:.1f} MB" for peers in workers))
    table.add_row("staleness (commits)\np50 / p95 / max", *(" / ".join(f"{n:g}" for n in three) for three in late))
    table.add_row("who waited for whom\n(virtual seconds)", *map(waits, runs))
    table.add_row("checksum", *(run.checksum for run in runs), end_section=True)
    if real:
        table.add_row("[bold]as processes, zmq[/]")
        table.add_row("test accuracy", *(f"{run.curve[-1][1]:.1%}" if run.curve else "none" for run in real))
        table.add_row("seconds of training", *(f"{run.seconds:.2f}" for run in real))
        table.add_row("wall seconds, in all", *(f"{run.wall_s:.2f}" for run in real))
        table.add_row("clocks of a fast worker", *(str(run.fast) for run in real))
        table.add_row("clocks of the slow one", *(str(run.clocks[-1]) for run in real))
    return table


Curves = list[tuple[str, list[tuple[float, float]]]]  # model, (seconds, accuracy)


def plot(worlds: dict[str, Curves], title: str, path: Path) -> None:
    """Accuracy over seconds, one panel per world."""
    figure = Figure(figsize=(2 + 7 * len(worlds), 5), dpi=150, layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(worlds), squeeze=False)[0]
    for axes, (label, curves) in zip(panels, worlds.items(), strict=True):
        colours = ("o-#0072B2", "s-#D55E00", "^-#009E73")  # Okabe and Ito's
        for (model, curve), style in zip(curves, colours, strict=True):
            seconds, reached = zip(*(curve or [(0.0, 0.0)]), strict=True)
            name = f"{model}: {reached[-1]:.1%} after {seconds[-1]:.1f} s"
            axes.plot(seconds, reached, style[:2], color=style[2:], markersize=4, label=name)
        axes.set(xlabel=label, ylabel="test accuracy", ylim=(0.6, 1.0))
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(path)


# ---- the command ----------------------------------------------------------------------------------------------------
def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="MNIST: its folder, or the one above (default: scikit-learn's digits)")
    add("--seed", type=int, default=1, help="of all that is random: same seed, same checksums (default %(default)s)")
    add("--epochs", type=int, help="passes over the data (default 16 for digits, 3 for MNIST)")
    add("--servers", type=int, default=2, help="servers that hold the values (default %(default)s)")
    add("--workers", type=int, default=4, help="workers, the last of them slow (default %(default)s)")
    add("--slow", type=float, default=4.0, metavar="X", help="its steps take X times as long (default %(default)g)")
    add("--seconds", type=float, default=3.0, metavar="S", help="of each model as processes; 0: none (default 3)")
    add("--out", type=Path, default="demo-accuracy.png", metavar="PNG", help="the plot (default %(default)s)")
    args = parser.parse_args(argv)
    bounds = {"seed": (0, 2**32), "epochs": (1, 1000), "servers": (1, 64), "workers": (1, 16), "slow": (1, 1000)}
    bounds["seconds"] = (0, 3600)
    for name, (least, most) in bounds.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            sys.exit(f"demo: --{name}: expected a number from {least} to {most}, got {value}")
    if args.out.suffix != ".png" or not args.out.resolve().parent.is_dir():
        sys.exit(f"demo: --out: expected a .png file in a folder that exists, got {str(args.out)!r}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    data = load(args.data)
    examples, features = data.train[0].shape
    each = ps.data.steps_per_epoch(examples, args.workers, data.batch) * (args.epochs or data.epochs)
    runs = [Run(model, each * args.workers) for model in MODELS]
    real = [Processes(model, [0] * args.workers) for model in MODELS if args.seconds]
    slowest = f"worker {args.workers - 1} is {args.slow:g}x slower" if args.slow > 1 else "all alike"
    console = Console(highlight=False)
    console.print(
        f"{data.name}: {examples:,} images to train on, {len(data.test[1]):,} to test; network {features}-{HIDDEN}-10\n"
        f"{args.servers} servers, {args.workers} workers, {slowest}; rate {LR:g}\n"
        f"in virtual time (declared compute + simulated links): {runs[0].steps:,} steps per model, repeatable\n"
        f"as processes over ZeroMQ (compute is a real sleep): {args.seconds:g} seconds per model\n"
    )
    view = View(console, [run.model for run in runs] + [run.name for run in real])
    with view.live or nullcontext():
        for run in runs:
            run_model(run, data, view, args)
        for child in real:
            run_processes(child, view, args)
    worlds = {"virtual seconds": [(run.model, run.curve) for run in runs]}
    if real:
        worlds["seconds of training, as processes"] = [(child.model, child.curve) for child in real]
    plot(worlds, f"{data.name}, {args.workers} workers, {slowest}", args.out)
    console.print(closing_table(runs, real), f"plot: {args.out.resolve()}\n", sep="\n", soft_wrap=True)
    console.print(in_words(runs, real))


def in_words(runs: list[Run], real: list[Processes]) -> str:
    """What the table shows."""
    bsp, ssp, free = (f"{run.virtual_s:.1f}" for run in runs)
    said = (
        f"The same {runs[0].steps:,} steps took {bsp} virtual seconds under bsp, where a clock waits for the slowest "
        f"worker, {ssp} under ssp, where nobody starts a clock more than 3 ahead of it, and {free} under async, where "
        "nobody waits.\n"
    )
    if real:
        bsp, ssp, free = (f"{sum(run.clocks)}" for run in real)
        said += (
            f"In processes, the same time was enough for {bsp} steps under bsp, {ssp} under ssp, {free} under async.\n"
        )
    return said + "Try --slow 1, --slow 16, --workers 8, --data DIR for MNIST; then examples/first_steps.py."


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
