"""As mlp_worker.py, with ps.torch.DistributedOptimizer: gradients leave during backward, values come during forward."""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
import torch

import ps
import ps.torch

BATCH, WARM_UP, LR = 64, 20, 0.01


def network() -> torch.nn.Sequential:
    """1.9 M parameters, the same ones every time, computed by one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = (torch.nn.Linear(784, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU())
    return torch.nn.Sequential(*layers, torch.nn.Linear(1024, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--alone", action="store_true", help="the same steps without communication")
    options = parser.parse_args()
    model = network()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), LR)
    client = None if options.alone else ps.connect()
    if client is not None:
        optimizer = ps.torch.DistributedOptimizer(optimizer, model, client)
    x, y = torch.randn(BATCH, 784), torch.randint(0, 10, (BATCH,))
    began, used = 0.0, 0.0
    for step in range(WARM_UP + options.steps):
        if step == WARM_UP:
            began, used = time.perf_counter(), cpu_s()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    seconds, used = time.perf_counter() - began, cpu_s() - used
    if client is not None:
        client.barrier()
        client.close()
    result = {"images_per_s": BATCH * options.steps / seconds, "cpu_ms_per_step": 1e3 * used / options.steps}
    print(json.dumps(result), flush=True)


def cpu_s() -> float:
    """Processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
