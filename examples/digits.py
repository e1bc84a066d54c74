"""A small network that learns handwritten digits; the same script alone, under `psctl run`, and in the demo.

    python examples/digits.py                                                # one worker, a cluster of its own
    psctl run --servers 2 --workers 4 --optimizer sgd:lr=1 examples/digits.py --slow 4 --step-ms 10

NumPy only, so that all of it can be read; with PyTorch or JAX `gradients` would be a backward pass.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ps

HIDDEN = 128  # units of the hidden layer
TELL_S = 0.2  # between a worker's reports

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


def load(folder: Path | None) -> Data:
    """MNIST from this folder, or without one the small digits. Exits, saying why, when it cannot be read."""
    return small_digits() if folder is None else mnist(folder)


def small_digits() -> Data:
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
        script = Path(sys.argv[0]).stem
        sys.exit(f"{script}: --data: expected a folder with MNIST (train-images-idx3-ubyte.gz, ...), got this: {error}")
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


def gradients(values: Values, images: Array, labels: Array) -> tuple[Values, float]:
    """Of the mean cross-entropy of a batch; and that loss."""
    hidden, scores = forward(values, images)
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    row = np.arange(len(labels))
    loss = -np.log(chances[row, labels] + 1e-9).mean()
    chances[row, labels] -= 1
    at_scores = chances / np.float32(len(labels))
    at_hidden = (at_scores @ values["output/w"].T) * (hidden > 0)
    grads = {"hidden/w": images.T @ at_hidden, "hidden/b": at_hidden.sum(axis=0)}
    return {**grads, "output/w": hidden.T @ at_scores, "output/b": at_scores.sum(axis=0)}, float(loss)


def accuracy(values: Values, test: tuple[Array, Array]) -> float:
    return float((forward(values, test[0])[1].argmax(axis=1) == test[1]).mean())


# ---- training -------------------------------------------------------------------------------------------------------
def train(client: ps.Client, data: Data, args: argparse.Namespace) -> None:
    """What every worker does, under every model and in every number of processes."""
    client.register(initial_values(data.train[0].shape[1], client.seed))
    step_s = args.step_ms / 1000 * (args.slow if client.rank == client.size - 1 else 1)
    epoch = ps.data.steps_per_epoch(len(data.train[1]), client.size, data.batch)  # clocks
    batches = ps.data.shard(data.train, client, batch=data.batch, epochs=args.epochs or data.epochs)
    if client.clock == 0:
        client.barrier()  # all begin together, so that runs can be compared; not needed to learn
    began, told = client.now, -TELL_S
    for images, labels in batches:  # ends early when client.should_stop: a stop rule, Ctrl-C, a failure elsewhere
        values = client.pull()  # waits as the model says
        grads, loss = gradients(values, images, labels)
        if (now := client.now - began) >= told + TELL_S:  # rarely: a report costs more than a step of this size
            told = now
            client.log(loss=loss, epoch=client.clock // epoch)
            if client.rank == 0:
                client.log(seconds=now, accuracy=accuracy(values, data.test))  # in this order in run.jsonl
        client.spend(step_s)
        client.push(grads, weight=len(labels))
        client.tick()
    if client.should_stop:
        return
    client.barrier()  # what follows is everybody's work
    if client.rank == 0:
        print(f"{accuracy(client.pull(), data.test):.1%} of {len(data.test[1]):,} test images right")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="MNIST: its folder, or the one above (default: scikit-learn's digits)")
    add("--epochs", type=int, help="passes over the data (default 32 for digits, 3 for MNIST)")
    add("--step-ms", type=float, default=0.0, metavar="MS", help="each step sleeps so long (default %(default)g)")
    add("--slow", type=float, default=1.0, metavar="X", help="the last worker X times as long (default %(default)g)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    data = load(args.data)  # before joining: nobody waits for a worker that reads its files
    with ps.connect() as client, suppress(ps.StoppedError):  # of a call that was waiting when the job was stopped
        train(client, data, args)


if __name__ == "__main__":
    main()
