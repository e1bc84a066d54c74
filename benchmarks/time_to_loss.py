"""Seconds until a network of 1.9 M parameters has learnt MNIST down to a validation loss: `ps`, or torch's DDP.

PYTHONPATH=. psctl run --workers 2 --consistency local:every=50 --optimizer nesterov:lr=0.7,decay=0.9 \\
    --compression int8 benchmarks/time_to_loss.py --data FOLDER --every 50
RANK=0 WORLD_SIZE=2 MASTER_ADDR=... MASTER_PORT=... python -m benchmarks.time_to_loss --data FOLDER --ddp fp32

Rank 0 looks at the loss over the test images each --every steps; the clock stands still meanwhile. Prints one line of
JSON, and one for each look with --verbose.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
import numpy as np
import torch

import ps
import ps.torch
from benchmarks.mlp_torch import BATCH, network
from examples.digits import load


class Watch:
    """The time of training, and the loss at each look."""

    def __init__(self, test: tuple[Any, Any], target: float, verbose: bool) -> None:
        self._x, self._y = (torch.from_numpy(part) for part in test)
        self._target, self._verbose = target, verbose
        self._began, self.seconds = time.perf_counter(), 0.0

    def look(self, model: torch.nn.Module, step: int) -> bool:
        """Whether the target is reached."""
        self.seconds += time.perf_counter() - self._began
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(model(self._x), self._y).item()
        if self._verbose or loss <= self._target:
            print(json.dumps({"step": step, "seconds": round(self.seconds, 3), "loss": round(loss, 4)}), flush=True)
        self._began = time.perf_counter()
        return loss <= self._target


def reduced(model: torch.nn.Module, hook: str) -> torch.nn.Module:
    """Under DDP over gloo, with one of its communication hooks."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    torch.distributed.init_process_group("gloo")
    # PowerSGD over gloo mixes up the messages of two buckets: one for all.
    made = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=256 if hook == "powersgd" else None)
    if hook == "fp16":
        made.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif hook == "powersgd":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=10)
        made.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PS_DATA"), help="folder with MNIST [PS_DATA]")
    parser.add_argument("--ddp", choices=["fp32", "fp16", "powersgd"], help="torch's DDP instead of ps")
    parser.add_argument("--lr", type=float, default=1e-3, help="of Adam")
    parser.add_argument("--target", type=float, default=0.1)
    parser.add_argument("--every", type=int, default=20, help="steps between two looks; under `local` a multiple of H")
    parser.add_argument("--steps", type=int, default=3000, help="at most")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    data = load(None if given.data is None else Path(given.data))
    x, y = data.train
    module = network()
    model: torch.nn.Module = module
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), given.lr)
    client = None
    if given.ddp:
        model = reduced(module, given.ddp)
        rank = torch.distributed.get_rank()
    else:
        client = ps.connect()
        optimizer = ps.torch.DistributedOptimizer(optimizer, module, client)
        rank = client.rank
    watch, step, reached = Watch(data.test, given.target, given.verbose), 0, False
    while step < given.steps and not reached:
        rows = np.random.default_rng((step, rank)).integers(0, len(y), BATCH)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
        loss.backward()
        optimizer.step()
        step += 1
        if step % given.every == 0:
            if client is not None:
                optimizer.synchronize()  # type: ignore[attr-defined]
            flag = torch.tensor(int(rank == 0 and watch.look(module, step)))
            if client is None:
                torch.distributed.broadcast(flag, 0)
            elif flag:
                client.stop("the target is reached")
            reached = bool(flag) or (client is not None and client.should_stop)
    if client is not None:
        client.close()


if __name__ == "__main__":
    main()
