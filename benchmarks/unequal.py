"""Workers of unequal speed, 1 : 1 : 2 : 4, on MNIST: how much of the sum of their rates a run gets, and where it ends.

PYTHONPATH=. psctl run --workers 4 benchmarks/unequal.py --data FOLDER --balanced     # with any --consistency
PYTHONPATH=. psctl run --workers 4 benchmarks/unequal.py --data FOLDER --equal        # the same sum, alike

Each worker sleeps for each example that it computes, so that this machine's cores do not matter; the rate that counts
is that of all examples over the whole time, the first leases of unknown speeds among it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
import torch

import ps
import ps.torch
from examples.digits import load

SPEEDS = (1, 1, 2, 4)
EXAMPLE_S = 2e-3  # of a worker of speed 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PS_DATA"), help="folder with MNIST [PS_DATA]")
    parser.add_argument("--balanced", action="store_true", help="batches in proportion to speed")
    parser.add_argument("--equal", action="store_true", help="all at the mean speed")
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load(None if given.data is None else Path(given.data))
    x, y = data.train
    model = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    with ps.connect() as client:
        own = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        optimizer = ps.torch.DistributedOptimizer(own, model, client)
        speed = sum(SPEEDS) / len(SPEEDS) if given.equal else SPEEDS[client.rank]
        client.barrier()
        began = time.perf_counter()
        for images, labels in ps.data.leased((x, y), client, batch=64, epochs=given.epochs, balanced=given.balanced):
            optimizer.zero_grad()
            optimizer.examples = len(images)
            time.sleep(len(images) * EXAMPLE_S / speed)
            loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
            loss.backward()
            optimizer.step()
        seconds = time.perf_counter() - began
        client.barrier()
        client.pull(out={name: p.data.numpy() for name, p in model.named_parameters()})
        if client.rank == 0:
            images, labels = (torch.from_numpy(part) for part in data.test)
            with torch.no_grad():
                accuracy = (model(images).argmax(1) == labels).float().mean().item()
            rate = len(y) * given.epochs / seconds
            share = rate / (sum(SPEEDS) / EXAMPLE_S)
            print(json.dumps({"examples_per_s": rate, "share_of_sum": share, "accuracy": accuracy}), flush=True)


if __name__ == "__main__":
    main()
