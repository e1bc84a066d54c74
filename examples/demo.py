"""The first five minutes with ps: one network, three consistency models, four workers of which one is slow.

Trains a small network on real data under bsp, ssp and async, shows every worker meanwhile, and ends with a table and a
plot. All runs are in virtual time: the same seed gives the same result, to the last bit. `make demo` installs what it
needs and runs it; by hand: pip install -e '.[demo]', then python examples/demo.py.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # sums are repeatable for a fixed number

import numpy as np
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
HIDDEN = 128  # units of the hidden layer
STEP_S = 0.010  # declared compute of one step, in virtual seconds
POINTS = 30  # evaluations per run

Array = np.ndarray[Any, Any]
Values = dict[str, Array]


# ---- real data: scikit-learn's digits, or MNIST from a folder -------------------------------------------------------
class Data(NamedTuple):
    """Images are rows of float32 in [0, 1], labels 0 to 9; `batch` is of one worker and step, `epochs` a default."""

    name: str
    train: tuple[Array, Array]
    test: tuple[Array, Array]
    batch: int
    epochs: int


def digits() -> Data:
    """1,797 images of 8 x 8 pixels that come with scikit-learn; a fixed fifth of them is the test part."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    train, test = (images[360:], labels[360:]), (images[:360], labels[:360])
    return Data("scikit-learn's digits", train, test, batch=32, epochs=32)


def mnist(folder: Path) -> Data:
    """The four gzipped IDX files in this folder or in its mnist/. Exits, saying why, when they cannot be read."""
    folder = folder / "mnist" if (folder / "mnist").is_dir() else folder
    try:
        parts = []
        for part in ("train", "t10k"):
            images = np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8)
            labels = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8)
            parts.append((images[16:].reshape(len(labels) - 8, 784) / np.float32(255), labels[8:].astype(np.int64)))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        sys.exit(f"demo: --data: expected a folder with MNIST (train-images-idx3-ubyte.gz, ...), got this: {error}")
    return Data("MNIST", parts[0], parts[1], batch=64, epochs=3)


# ---- the network: two layers, in NumPy ------------------------------------------------------------------------------
def initial_values(features: int, seed: int) -> Values:
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((features, HIDDEN)) * np.sqrt(2 / features)
    output = random.standard_normal((HIDDEN, 10)) * np.sqrt(1 / HIDDEN)
    values = {"hidden/w": hidden, "hidden/b": np.zeros(HIDDEN), "output/w": output, "output/b": np.zeros(10)}
    return {name: array.astype(np.float32) for name, array in values.items()}


def forward(values: Values, images: Array) -> tuple[Array, Array]:
    """Activations of the hidden layer, and scores of the ten classes."""
    hidden = np.maximum(images @ values["hidden/w"] + values["hidden/b"], 0)
    return hidden, hidden @ values["output/w"] + values["output/b"]


def gradients(values: Values, images: Array, labels: Array) -> Values:
    """Of the mean cross-entropy of a batch."""
    hidden, scores = forward(values, images)
    at_scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    at_scores /= at_scores.sum(axis=1, keepdims=True)
    at_scores[np.arange(len(labels)), labels] -= 1
    at_scores /= len(labels)
    at_hidden = (at_scores @ values["output/w"].T) * (hidden > 0)
    grads = {"hidden/w": images.T @ at_hidden, "hidden/b": at_hidden.sum(axis=0)}
    return {**grads, "output/w": hidden.T @ at_scores, "output/b": at_scores.sum(axis=0)}


def accuracy(values: Values, test: tuple[Array, Array]) -> float:
    return float((forward(values, test[0])[1].argmax(axis=1) == test[1]).mean())


# ---- training under one model ---------------------------------------------------------------------------------------
@dataclass
class Run:
    """One model: what it is to do, and what has come out so far."""

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
        grads = gradients(values, images, labels)
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
        view.show(run, cluster.status())
        while not is_over(cluster):
            run.metrics = cluster.metrics()
            view.show(run, cluster.status())
        cluster.results()  # raises what went wrong in a worker
        status = cluster.status()
        run.wall_s, run.virtual_s = time.monotonic() - started, status["virtual_seconds"]
        run.metrics, run.checksum = cluster.metrics(), cluster.checksum()
        run.curve.append((run.virtual_s, accuracy(cluster.pull(), data.test)))
        view.show(run, status)


def is_over(cluster: ps.LocalCluster) -> bool:
    """Waits a tenth of a second for the end."""
    with suppress(ps.DeadlineError):
        cluster.results(timeout=0.1)
        return True
    return cluster.status()["stopped"] is not None


# ---- what one sees --------------------------------------------------------------------------------------------------
class View:
    """Bars that move while it runs; where stdout is no terminal, a plain line for every quarter of it."""

    def __init__(self, console: Console) -> None:
        model, note = TextColumn("{task.description:15}"), TextColumn("{task.fields[note]}")
        self.bars = Progress(model, BarColumn(20), note, console=console)
        self.bar = {model: self.bars.add_task(model, total=1.0, note="") for model in MODELS}
        self.live = Live(self.bars, console=console) if console.is_interactive and sys.stdout.isatty() else None
        self.quarter = dict.fromkeys(MODELS, 0)  # the last one told

    def show(self, run: Run, status: dict[str, Any]) -> None:
        """Where this run is now."""
        clocks = [worker["clock"] for worker in status["workers"]]
        share = sum(clocks) / run.steps
        note = f"{share:4.0%} {status['virtual_seconds']:6.2f} virtual s"
        note += f", accuracy {run.curve[-1][1]:.1%}" if run.curve else ""
        if self.live is not None:
            rows = [f"  worker {rank}: clock {c:4}, {max(clocks) - c:3} behind" for rank, c in enumerate(clocks)]
            if late := run.staleness:
                rows.append(f"  staleness so far: median {late.percentile(50):g}, at most {late.max:g} commits")
            self.bars.update(self.bar[run.model], completed=share, note=note)
            self.live.update(self.bars if share >= 1 else Group(self.bars, *rows), refresh=True)
        elif int(4 * share) > self.quarter[run.model]:
            self.quarter[run.model] = int(4 * share)
            print(f"{run.model:15} {note}, clocks {' '.join(map(str, clocks))}", flush=True)


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


def closing_table(runs: list[Run]) -> Table:
    """One column per model."""
    table = Table("", *(run.model for run in runs), box=box.SIMPLE_HEAD)
    workers = [merge(snapshot for peer, snapshot in run.metrics if peer.startswith("worker:")) for run in runs]
    late = [[run.staleness.percentile(p) for p in (50, 95, 100)] if run.staleness else [] for run in runs]
    table.add_row("test accuracy", *(f"{run.curve[-1][1]:.1%}" for run in runs))
    table.add_row("virtual seconds", *(f"{run.virtual_s:.2f}" for run in runs))
    table.add_row("wall seconds", *(f"{run.wall_s:.2f}" for run in runs))
    for name, metric, way in (("payload pushed", "push_bytes", "sent"), ("payload pulled", "pull_bytes", "received")):
        table.add_row(name, *(f"{peers.total(metric, direction=way) / 1e6:.1f} MB" for peers in workers))
    table.add_row("staleness (commits)\np50 / p95 / max", *(" / ".join(f"{n:g}" for n in three) for three in late))
    table.add_row("who waited for whom\n(virtual seconds)", *map(waits, runs))
    table.add_row("checksum", *(run.checksum for run in runs))
    return table


def plot(runs: list[Run], title: str, path: Path) -> None:
    """Accuracy over virtual seconds."""
    axes = (figure := Figure(figsize=(9, 5), dpi=150, layout="constrained")).add_subplot()
    for run, style in zip(runs, ("o-#0072B2", "s-#D55E00", "^-#009E73"), strict=True):  # Okabe and Ito's colours
        seconds, reached = zip(*run.curve, strict=True)
        label = f"{run.model}: {reached[-1]:.1%} after {seconds[-1]:.1f} virtual s"
        axes.plot(seconds, reached, style[:2], color=style[2:], markersize=4, label=label)
    axes.set(title=title, ylim=(max(0.0, min(run.curve[-1][1] for run in runs) - 0.15), 1.0))
    axes.set(xlabel="virtual seconds: declared compute + simulated links", ylabel="test accuracy")
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
    add("--out", type=Path, default="demo-accuracy.png", metavar="PNG", help="the plot (default %(default)s)")
    args = parser.parse_args(argv)
    bounds = {"seed": (0, 2**32), "epochs": (1, 1000), "servers": (1, 64), "workers": (1, 16), "slow": (1, 1000)}
    for name, (least, most) in bounds.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            sys.exit(f"demo: --{name}: expected a number from {least} to {most}, got {value}")
    if args.out.suffix != ".png" or not args.out.resolve().parent.is_dir():
        sys.exit(f"demo: --out: expected a .png file in a folder that exists, got {str(args.out)!r}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    data = digits() if args.data is None else mnist(args.data)
    examples, features = data.train[0].shape
    each = ps.data.steps_per_epoch(examples, args.workers, data.batch) * (args.epochs or data.epochs)
    runs = [Run(model, each * args.workers) for model in MODELS]
    slowest = f"worker {args.workers - 1} is {args.slow:g}x slower" if args.slow > 1 else "all alike"
    console = Console(highlight=False)
    console.print(
        f"{data.name}: {examples:,} images to train on, {len(data.test[1]):,} to test; network {features}-{HIDDEN}-10\n"
        f"{args.servers} servers, {args.workers} workers, {slowest}; {runs[0].steps:,} steps per model, rate {LR:g}\n"
        "virtual seconds: declared compute + simulated links; wall seconds beside them\n"
    )
    view = View(console)
    with view.live or nullcontext():
        for run in runs:
            run_model(run, data, view, args)
    plot(runs, f"{data.name}, {args.workers} workers, {slowest}", args.out)
    console.print(closing_table(runs), f"plot: {args.out.resolve()}\n", sep="\n", soft_wrap=True)
    bsp, ssp, free = (f"{run.virtual_s:.1f}" for run in runs)
    console.print(
        f"The same {runs[0].steps:,} steps took {bsp} virtual seconds under bsp, where a clock waits for the slowest "
        f"worker, {ssp} under ssp, where nobody starts a clock more than 3 ahead of it, and {free} under async, where "
        "nobody waits.\nTry --slow 1, --slow 16, --workers 8, --data DIR for MNIST; then examples/first_steps.py."
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
