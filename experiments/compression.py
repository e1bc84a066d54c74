"""What compression costs in accuracy and saves in bytes, on real data: the tables of docs/results/compression_*.md.

    python experiments/compression.py --data ../shared/data            # all tables, about 20 minutes on two cores
    python experiments/compression.py --data ../shared/data --only a9a

Four workers, two servers, BSP in one process, virtual time: a figure repeats to the bit. Payload bytes are those of
gradients and values at the sockets of all workers, headers apart. Final loss: mean of the last epoch's steps.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import ps

SEEDS = (1, 2, 3)
Array = np.ndarray[Any, Any]
Values = dict[str, Array]


class Task(NamedTuple):
    """A model on a data set; the learning rate is that of the dense run, for every arm."""

    initial: Callable[[int], Values]
    gradients: Callable[[Values, Array, Array], tuple[float, Values]]
    accuracy: Callable[[Values], float]
    train: tuple[Array, Array]
    lr: float
    batch: int
    epochs: int


class Outcome(NamedTuple):
    """One run."""

    accuracy: float
    loss: float
    pushed: int
    pulled: int


def main() -> None:
    """Prints the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds mnist/ and a9a/")
    parser.add_argument("--only", choices=["mnist", "a9a"], help="one table")
    options = parser.parse_args()
    if options.only != "a9a":
        table("MNIST, MLP 784-128-10", mnist(options.data), MNIST_ARMS)
    if options.only != "mnist":
        table("a9a, logistic regression, bag of words", a9a(options.data), A9A_ARMS)


MNIST_ARMS: dict[str, dict[str, str]] = {
    "none": {},
    "onebit, both ways": {"compression": "onebit"},
    "onebit:group=64, both ways": {"compression": "onebit:group=64"},
    "onebit:group=131072, both ways": {"compression": "onebit:group=131072"},
    "onebit push": {"push_compression": "onebit"},
    "onebit push, no feedback": {"push_compression": "onebit:error_feedback=false"},
    "onebit:threshold=mean, both ways": {"compression": "onebit:threshold=mean"},
    "sign, both ways": {"compression": "sign"},
    "int8, both ways": {"compression": "int8"},
    "fp16, both ways": {"compression": "fp16"},
    "topk:ratio=0.01 push": {"push_compression": "topk:ratio=0.01"},
    "topk:ratio=0.001 push": {"push_compression": "topk:ratio=0.001"},
    "topk:ratio=0.001 push, no feedback": {"push_compression": "topk:ratio=0.001,error_feedback=false"},
    "dgc:ratio=0.001 push": {"push_compression": "dgc:ratio=0.001,momentum=0.0"},
    "powersgd:rank=2 push": {"push_compression": "powersgd:rank=2"},
    "qsgd push": {"push_compression": "qsgd"},
}
A9A_ARMS: dict[str, dict[str, str]] = {
    "none": {},
    "onebit": {"push_compression": "onebit:min_elements=0"},
    "onebit, no feedback": {"push_compression": "onebit:min_elements=0,error_feedback=false"},
    "onebit:group=32": {"push_compression": "onebit:min_elements=0,group=32"},
    "onebit:group=32, no feedback": {"push_compression": "onebit:min_elements=0,group=32,error_feedback=false"},
}


def table(title: str, task: Task, arms: dict[str, dict[str, str]]) -> None:
    """Runs every arm with every seed, and prints a line as soon as its runs are over."""
    print(f"\n{title}: lr {task.lr:g}, batch {task.batch} x 4 workers, {task.epochs} epochs, seeds {SEEDS}\n")
    print("| arm | accuracy, % | final loss | against dense | bytes pushed | bytes pulled |\n|---|---|---|---|---|---|")
    dense: list[Outcome] = []
    for name, options in arms.items():
        runs = [run(task, options, seed) for seed in SEEDS]
        dense = dense or runs
        change = [one.loss / base.loss - 1 for one, base in zip(runs, dense, strict=True)]
        cells = [
            " ".join(f"{100 * one.accuracy:.2f}" for one in runs),
            " ".join(f"{one.loss:.4f}" for one in runs),
            " ".join(f"{100 * part:+.1f} %" for part in change),
            ratio([one.pushed for one in dense], [one.pushed for one in runs]),
            ratio([one.pulled for one in dense], [one.pulled for one in runs]),
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def ratio(dense: list[int], these: list[int]) -> str:
    """Bytes of the first run, and how many times less than dense."""
    return f"{these[0]:,} (1/{median(a / b for a, b in zip(dense, these, strict=True)):.1f})"


def run(task: Task, options: dict[str, str], seed: int) -> Outcome:
    """One run of four workers."""

    def train(client: ps.Client) -> float:
        client.register(task.initial(seed))
        losses: list[float] = []
        for x, y in ps.data.shard(task.train, client, batch=task.batch, epochs=task.epochs):
            loss, grads = task.gradients(client.pull(), x, y)
            losses.append(loss)
            client.push(grads, weight=len(y))
            client.tick()
        client.barrier()
        return float(np.mean(losses[-len(losses) // task.epochs :]))

    both: dict[str, Any] = {"consistency": "bsp", "optimizer": f"sgd:lr={task.lr}", "seed": seed, **options}
    with ps.LocalCluster(servers=2, workers=4, **both) as cluster:
        losses = cluster.run(train)
        workers = [snapshot for peer, snapshot in cluster.metrics() if peer.startswith("worker")]
        pushed = sum(one.counters["push_bytes", (("direction", "sent"),)] for one in workers)
        pulled = sum(one.counters["pull_bytes", (("direction", "received"),)] for one in workers)
        return Outcome(task.accuracy(cluster.pull()), float(np.mean(losses)), int(pushed), int(pulled))


# ---- tasks ----------------------------------------------------------------------------------------------------------


def mnist(folder: Path) -> Task:
    """A network with one hidden layer of ReLUs."""

    def read(name: str, header: int) -> Array:
        return np.frombuffer(gzip.decompress((folder / "mnist" / name).read_bytes()), np.uint8, offset=header)

    def part(name: str) -> tuple[Array, Array]:
        pixels = read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
        images = (pixels / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
        return images, read(f"{name}-labels-idx1-ubyte.gz", 8).astype(np.int64)

    def initial(seed: int) -> Values:
        rng = np.random.default_rng(seed)
        w1, w2 = rng.standard_normal((784, 128)) * np.sqrt(2 / 784), rng.standard_normal((128, 10)) * np.sqrt(2 / 128)
        zeros = {"b1": np.zeros(128, np.float32), "b2": np.zeros(10, np.float32)}
        return {"w1": w1.astype(np.float32), "w2": w2.astype(np.float32), **zeros}

    def gradients(p: Values, x: Array, y: Array) -> tuple[float, Values]:
        hidden = np.maximum(x @ p["w1"] + p["b1"], 0)
        scores = hidden @ p["w2"] + p["b2"]
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        loss = -np.log(share[np.arange(len(y)), y] + 1e-12).mean()
        share[np.arange(len(y)), y] -= 1
        back = share / np.float32(len(y))
        below = (back @ p["w2"].T) * (hidden > 0)
        return float(loss), {"w2": hidden.T @ back, "b2": back.sum(0), "w1": x.T @ below, "b1": below.sum(0)}

    images, labels = part("t10k")

    def accuracy(p: Values) -> float:
        scores = np.maximum(images @ p["w1"] + p["b1"], 0) @ p["w2"] + p["b2"]
        return float((scores.argmax(axis=1) == labels).mean())

    return Task(initial, gradients, accuracy, part("train"), lr=0.3, batch=100, epochs=5)


def a9a(folder: Path) -> Task:
    """Logistic regression on 123 binary features of very uneven frequency."""

    def rows(name: str) -> Iterator[tuple[int, list[int]]]:
        for line in (folder / "a9a" / name).read_text().splitlines():
            label, *features = line.split()
            yield label == "+1", [int(feature.partition(":")[0]) - 1 for feature in features]

    def part(name: str) -> tuple[Array, Array]:
        examples = list(rows(name))
        x = np.zeros((len(examples), 123), np.float32)
        for row, (_, features) in enumerate(examples):
            x[row, features] = 1
        return x, np.array([label for label, _ in examples], np.float32)

    def initial(seed: int) -> Values:
        return {"w": np.zeros(123, np.float32), "b": np.zeros(1, np.float32)}

    def gradients(p: Values, x: Array, y: Array) -> tuple[float, Values]:
        score = x @ p["w"] + p["b"]
        loss = np.logaddexp(0, score) - y * score
        back = (1 / (1 + np.exp(-score)) - y) / np.float32(len(y))
        return float(loss.mean()), {"w": x.T @ back, "b": back.sum(keepdims=True)}

    images, labels = part("a9a.t")

    def accuracy(p: Values) -> float:
        return float(((images @ p["w"] + p["b"] > 0) == labels).mean())

    return Task(initial, gradients, accuracy, part("a9a"), lr=0.5, batch=32, epochs=5)


if __name__ == "__main__":
    main()
