"""A worker of several ranks, as `psctl worker -- torchrun` starts it. All leave their final values in a folder."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import ps
import ps.torch
from tests.pytorch.models import flat
from tests.pytorch.test_groups import MAKE, TORCHRUN


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    group = dist.group.WORLD
    client = ps.connect() if dist.get_rank(group) == 0 else None
    case, model = TORCHRUN, TORCHRUN.problem.copy()
    optimizer = ps.torch.DistributedOptimizer(MAKE[case.make](model), model, client, process_group=group)
    index = optimizer.worker.rank * dist.get_world_size(group) + dist.get_rank(group)
    optimizer.examples = case.batches[index]
    while optimizer.worker.clock < case.steps:
        optimizer.zero_grad()
        case.gradients(model, optimizer.worker.clock, index)
        optimizer.step()
    torch.save(flat(model), Path(sys.argv[1]) / f"{index}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
