"""The network of mnist.py in PyTorch under torch's own ways to train together: what the experiment files compare with.

Run by `psctl sweep` as an arm with `launch = "ranks"`: RANK, WORLD_SIZE and the like are torch's, PS_RUN_LOG is where
its measurements go. A step is made to compute as long as that of the other arms, forward and backward together:
--compute-s, --stragglers.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from looks import Figures, Looks  # type: ignore[import-not-found]  # beside this script
from mnist_data import mnist  # type: ignore[import-not-found]
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, post_localSGD_hook, powerSGD_hook
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import ps
from ps.stragglers import slowdowns

VALIDATION = 5000
LOCAL_STEPS = 20  # of post-local SGD, after WARM_UP
WARM_UP = 50


def wrap(model: nn.Module, args: argparse.Namespace) -> tuple[Any, Any]:
    """The model as its arm trains it, and the optimizer."""
    ddp: Any = DistributedDataParallel(model)
    sgd: Any = torch.optim.SGD(ddp.parameters(), lr=args.lr)
    if args.arm == "fp16":
        ddp.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif args.arm == "powersgd":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif args.arm == "post_local":
        alone, _ = dist.new_subgroups(1)  # between averages nobody is asked
        hook = post_localSGD_hook.PostLocalSGDState(None, alone, start_localSGD_iter=WARM_UP)
        ddp.register_comm_hook(hook, post_localSGD_hook.post_localSGD_hook)
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

        sgd = PostLocalSGDOptimizer(sgd, PeriodicModelAverager(period=LOCAL_STEPS, warmup_steps=WARM_UP))
    return ddp, sgd


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The share that is right."""
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def backward_s(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of a backward pass alone, without others: the median of 3 after a first one. Leaves no gradient."""
    took = []
    for _ in range(4):
        loss = cross_entropy(model(x), y)
        at = time.monotonic()
        loss.backward()
        took.append(time.monotonic() - at)
        model.zero_grad()
    return median(took[1:])


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default=Path(os.environ.get("PS_DATA", "../shared/data")))
    add("--arm", choices=["ddp", "fp16", "powersgd", "accumulate", "post_local"], default="ddp")
    add("--hidden", type=int, default=128)
    add("--batch", type=int, default=32)
    add("--lr", type=float, default=0.3)
    add("--clocks", type=int, default=10**9)
    add("--every", type=float, default=0.5, help="seconds between two looks, >= 0.5")
    add("--compute-s", type=float, default=0.0)
    add("--stragglers", default=None)
    return parser.parse_args()


def main() -> None:
    """One rank, until the clocks are over, or a stop rule of the experiment ends it."""
    args = arguments()
    rank, size, seed = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["PS_SEED"])
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    x, y, test_x, test_y = map(torch.from_numpy, mnist(args.data / "mnist"))
    dist.init_process_group("gloo")
    model = nn.Sequential(nn.Linear(784, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 10))
    ddp, optimizer = wrap(model, args)
    slow, every = slowdowns(args.stragglers, seed), 8 if args.arm == "accumulate" else 1
    steps = ps.data.steps_per_epoch(len(y) - VALIDATION, size, args.batch)
    own_s = backward_s(model, x[: args.batch], y[: args.batch])
    dist.barrier()
    began, looks = time.monotonic(), Looks(args.every)

    def look(model: nn.Module) -> Figures:
        validation = accuracy(model, x[-VALIDATION:], y[-VALIDATION:])
        return {"val_accuracy": validation, "accuracy": accuracy(model, test_x, test_y)}

    def tell(clock: int, found: Figures) -> None:
        with Path(os.environ["PS_RUN_LOG"]).open("a") as log:
            for name, value in found.items():
                row = {"time": time.monotonic() - began, "rank": rank, "clock": clock, "name": name, "value": value}
                print(json.dumps(row), file=log)

    for clock in range(args.clocks):
        if clock % steps == 0:
            parts = ps.data.indices(len(y) - VALIDATION, seed, clock // steps, rank, size, args.batch)
        at = time.monotonic()
        if rank == 0:
            if (found := looks.ready(at - began)) is not None:
                tell(clock, found)
            if looks.is_due(at - began):
                looks.begin(at - began, partial(look, deepcopy(model)))
        mine = torch.from_numpy(parts[clock % steps])
        exchanges = (clock + 1) % every == 0
        ddp.require_backward_grad_sync = exchanges
        loss = cross_entropy(ddp(x[mine]), y[mine]) / every
        # before backward, whose exchange then comes when all but its own computing is over
        time.sleep(max(args.compute_s * slow.of(rank, size, clock) - (time.monotonic() - at) - own_s, 0.0))
        loss.backward()
        if exchanges:
            optimizer.step()
            optimizer.zero_grad()
        if rank == 0 and clock == 0:  # seconds count from the first row: from the end of the first step, as in our arms
            tell(1, {"loss": loss.item() * every})
    if rank == 0:
        tell(args.clocks, look(model))
    dist.barrier()
    os._exit(0)  # gloo's threads may wait for ever for ranks that have ended


if __name__ == "__main__":
    main()
