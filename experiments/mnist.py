"""Handwritten digits for the experiment files beside this script: a network of one hidden layer, in NumPy.

    psctl run --workers 4 --optimizer sgd:lr=0.3 experiments/mnist.py --data ../shared/data

Trains on 55,000 images; logs `val_accuracy` on the other 5,000, by which settings are tuned, and `accuracy` on the
10,000 test images, of the values that worker 0 has pulled, as often as --every says in seconds of the run's own time.
A thread measures them while worker 0 goes on.
"""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from looks import Figures, Looks  # type: ignore[import-not-found]  # beside this script
from mnist_data import mnist  # type: ignore[import-not-found]

import ps

VALIDATION = 5000
Array = np.ndarray[Any, Any]
Values = dict[str, Array]


def initial(hidden: int, seed: int) -> Values:
    """He's initialisation."""
    random = np.random.default_rng(seed)
    scales = {"w1": ((784, hidden), (2 / 784) ** 0.5), "w2": ((hidden, 10), hidden**-0.5)}
    made = {name: (scale * random.standard_normal(shape)).astype(np.float32) for name, (shape, scale) in scales.items()}
    return {**made, "b1": np.zeros(hidden, np.float32), "b2": np.zeros(10, np.float32)}


def gradients(p: Values, x: Array, y: Array) -> tuple[Values, float]:
    """Of the mean cross-entropy of a batch; and that loss."""
    hidden = np.maximum(x @ p["w1"] + p["b1"], 0)
    scores = hidden @ p["w2"] + p["b2"]
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = float(-np.log(chances[rows, y] + 1e-9).mean())
    chances[rows, y] -= 1
    back = chances / np.float32(len(y))
    below = (back @ p["w2"].T) * (hidden > 0)
    return {"w1": x.T @ below, "b1": below.sum(0), "w2": hidden.T @ back, "b2": back.sum(0)}, loss


def accuracy(p: Values, x: Array, y: Array) -> float:
    """The share that is right."""
    return float(((np.maximum(x @ p["w1"] + p["b1"], 0) @ p["w2"] + p["b2"]).argmax(1) == y).mean())


def train(client: ps.Client, args: argparse.Namespace, data: tuple[Array, Array, Array, Array]) -> None:
    """What every worker does, under every model."""
    x, y, test_x, test_y = data

    def look(values: Values) -> Figures:
        validation = accuracy(values, x[-VALIDATION:], y[-VALIDATION:])
        return {"val_accuracy": validation, "accuracy": accuracy(values, test_x, test_y)}

    client.register(initial(args.hidden, client.seed))
    client.barrier()
    looks = Looks(args.every)
    batches = ps.data.shard((x[:-VALIDATION], y[:-VALIDATION]), client, batch=args.batch, epochs=args.epochs or 10**6)
    for images, labels in batches:
        if client.clock >= args.clocks:
            break
        values = client.pull()
        if client.rank == 0:
            if (found := looks.ready(client.now)) is not None:
                client.log(**found)
            if looks.is_due(client.now):
                looks.begin(client.now, partial(look, {name: value.copy() for name, value in values.items()}))
        grads, loss = gradients(values, images, labels)
        client.push(grads, weight=len(labels))
        client.tick()
        if client.rank == 0 and client.clock % 10 == 0:
            client.log(loss=loss)
    if not client.should_stop:
        client.barrier()
        if client.rank == 0:
            client.log(**look(client.pull()))


def main() -> None:
    """Reads its data before it joins: nobody waits for that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("PS_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default), help="the folder that holds mnist/ (else PS_DATA)")
    parser.add_argument("--hidden", type=int, default=128, help="units of the hidden layer, %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="images of one worker and step, %(default)s")
    parser.add_argument("--clocks", type=int, default=10**9, help="steps of each worker, at most")
    parser.add_argument("--epochs", type=int, default=0, help="passes over the images, 0: until it is stopped")
    parser.add_argument(
        "--every", type=float, default=0.5, metavar="S", help="seconds between two looks, >= 0.5, %(default)s"
    )
    args = parser.parse_args()
    args.data = args.data / "mnist" if (args.data / "mnist").is_dir() else args.data
    data = mnist(args.data)
    with ps.connect() as client, suppress(ps.StoppedError):
        train(client, args, data)


if __name__ == "__main__":
    main()
