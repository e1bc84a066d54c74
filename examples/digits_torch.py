"""PyTorch on handwritten digits: one script under every consistency model and compression, by flags of the run only.

python examples/digits_torch.py                                          # one worker, a cluster of its own
psctl run --workers 2 examples/digits_torch.py --data FOLDER             # MNIST: 96.9 %, as alone
psctl run --workers 2 examples/digits_torch.py --data FOLDER --model cnn --epochs 2                      # 98.6 %
psctl run --workers 2 --consistency ssp:staleness=3 --compression onebit examples/digits_torch.py --data FOLDER
psctl run --workers 2 --consistency local:every=20 --optimizer nesterov:lr=0.7,decay=0.9 examples/digits_torch.py \\
    --data FOLDER --by-class       # DiLoCo, each worker with five of the digits: 93.3 %; 96.8 % under bsp
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits import load  # type: ignore[import-not-found, unused-ignore]
from torch import nn

import ps
import ps.torch

LOG_EVERY = 20  # clocks
Array = np.ndarray[Any, Any]


def make_model(kind: str, side: int) -> nn.Module:
    """A network of one hidden layer, or two convolutions and one."""
    if kind == "mlp":
        return nn.Sequential(nn.Linear(side * side, 128), nn.ReLU(), nn.Linear(128, 10))
    convolutions = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1))
    inner = (side // 4) ** 2 * 32
    head = (nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(inner, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(nn.Unflatten(1, (1, side, side)), *convolutions, *head)


def own_classes(x: Array, y: Array, client: ps.Client, batch: int, epochs: int) -> Iterator[tuple[Array, Array]]:
    """Batches of this worker's classes only: data that stays where it arose (non-IID)."""
    mine = np.array_split(np.argsort(y, kind="stable"), client.size)[client.rank]
    while client.clock < epochs * ps.data.steps_per_epoch(len(y), client.size, batch) and not client.should_stop:
        rows = np.random.default_rng((client.seed, client.clock, client.rank)).choice(mine, batch)
        yield x[rows], y[rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PS_DATA"), help="folder with MNIST [PS_DATA]")
    parser.add_argument("--model", choices=["mlp", "cnn"], default="mlp")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--by-class", action="store_true", help="each worker has only some of the digits")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    data = load(None if given.data is None else Path(given.data))
    (x, y), test = data.train, [torch.from_numpy(part) for part in data.test]
    model = make_model(given.model, int(x.shape[1] ** 0.5))
    with ps.connect() as client:
        own = torch.optim.SGD(model.parameters(), given.lr, momentum=0.9)
        optimizer = ps.torch.DistributedOptimizer(own, model, client)
        epochs = given.epochs or data.epochs
        shared = ps.data.shard((x, y), client, batch=data.batch, epochs=epochs)
        for images, labels in own_classes(x, y, client, data.batch, epochs) if given.by_class else shared:
            optimizer.zero_grad()
            optimizer.examples = len(images)
            loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
            loss.backward()
            optimizer.step()
            if client.clock % LOG_EVERY == 0:
                client.log(loss=loss.item())
            if client.should_stop:
                break
        client.barrier()
        client.pull(out={name: p.data.numpy() for name, p in model.named_parameters()})
        if client.rank == 0:
            with torch.no_grad():
                accuracy = (model(test[0]).argmax(1) == test[1]).float().mean().item()
            client.log(test_acc=accuracy)
            print(f"{data.name}: test accuracy {100 * accuracy:.1f} % after {client.clock} clocks")


if __name__ == "__main__":
    main()
