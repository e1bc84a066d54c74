"""A GPT of 100 M parameters on short sequences: seconds per step, what of it is not computing, and peak memory.

python -m benchmarks.gpt_torch --alone                                 # computing only
psctl run --workers 3 --servers colocated benchmarks/gpt_torch.py      # ps; any consistency and compression
RANK=0 WORLD_SIZE=3 MASTER_ADDR=10.77.0.1 MASTER_PORT=7001 python -m benchmarks.gpt_torch --ddp     # each rank

Random tokens: the time of a step does not depend on them. All workers must have the same --steps; under `local` give a
multiple of H. Each prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
import torch
from torch import nn

import ps
import ps.torch

WIDTH, HEADS, LAYERS, TOKENS, CONTEXT, LR = 768, 12, 12, 20_000, 64, 1e-4


class Gpt(nn.Module):
    """100.5 M parameters; the scores' matrix is that of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm, self.scores = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS, bias=False)
        self.scores.weight = self.token.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.token(tokens) + self.place(torch.arange(length))
        scores: torch.Tensor = self.scores(self.norm(self.blocks(x, mask=mask, is_causal=True)))
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2, help="sequences of 64 tokens per worker and step")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--ddp", action="store_true", help="torch's DistributedDataParallel over gloo")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Gpt()
    model: nn.Module = module
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), LR)
    client = None
    if given.ddp:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    elif not given.alone:
        client = ps.connect()
        optimizer = ps.torch.DistributedOptimizer(optimizer, model, client)
    tokens = torch.randint(TOKENS, (given.batch, CONTEXT + 1))
    began = 0.0
    for step in range(given.warm_up + given.steps):
        if step == given.warm_up:
            began = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    if client is not None:
        optimizer.synchronize()  # type: ignore[attr-defined]
    seconds = (time.perf_counter() - began) / given.steps
    if client is not None:
        client.barrier()
        client.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = {
        "seconds_per_step": seconds,
        "peak_mb": peak / 1024,
        "parameters": sum(p.numel() for p in module.parameters()),
    }
    print(json.dumps(used), flush=True)


if __name__ == "__main__":
    main()
