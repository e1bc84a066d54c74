"""A small GPT that learns to write like Shakespeare, letter by letter: PyTorch, under every model by flags of the run.

psctl run --workers 2 examples/shakespeare.py --data FOLDER         # 1.80 nats per letter of the test part
psctl run --workers 2 --consistency ssp:staleness=3 --compression onebit \\
    examples/shakespeare.py --data FOLDER                           # 1.86
psctl run --workers 2 --consistency local:every=20 --optimizer nesterov:lr=0.7,decay=0.9 \\
    examples/shakespeare.py --data FOLDER                           # 1.81: DiLoCo, at a twentieth of the bytes

About a minute on two cores; knowing the letter before gives 2.48, knowing nothing 4.17.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import ps
import ps.torch

CONTEXT, WIDTH, HEADS, LAYERS, LOG_EVERY = 64, 96, 4, 2, 20
Array = np.ndarray[Any, Any]


class Block(nn.Module):
    """One layer of a transformer, normalised before each part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, attn_mask=mask, is_causal=True, need_weights=False)[0]
        result: torch.Tensor = x + self.inner(self.norm2(x))
        return result


class Gpt(nn.Module):
    """Scores of the next letter at each place."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, letters))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.letter(tokens) + self.place(torch.arange(length))
        for block in self.blocks:
            x = block(x, mask)
        scores: torch.Tensor = self.head(x)
        return scores


def loss_of(model: Gpt, text: Array, starts: Array) -> torch.Tensor:
    """Nats per letter of the pieces that begin at these places."""
    tokens = torch.from_numpy(text[starts[:, None] + np.arange(CONTEXT + 1)])
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("PS_DATA"), help="folder of the data sets [PS_DATA]"
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16, help="pieces of text per worker and step")
    parser.add_argument("--lr", type=float, default=2e-3)
    given = parser.parse_args()
    if given.data is None:
        parser.error("--data: expected the folder of tinyshakespeare, or PS_DATA")
    path = Path(given.data) / "tinyshakespeare" / "input.txt"
    if not path.is_file():
        sys.exit(f"shakespeare: --data: expected a folder with tinyshakespeare/input.txt, got none at {path}")
    letters, text = np.unique(np.frombuffer(path.read_bytes(), np.uint8), return_inverse=True)
    train, test = np.split(text, [len(text) * 9 // 10])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    model = Gpt(len(letters))
    with ps.connect() as client:
        own = torch.optim.Adam(model.parameters(), lr=given.lr)
        optimizer = ps.torch.DistributedOptimizer(own, model, client)
        while client.clock < given.steps and not client.should_stop:
            random = np.random.default_rng((client.seed, client.clock, client.rank))  # a restarted worker goes on
            optimizer.zero_grad()
            loss = loss_of(model, train, random.integers(0, len(train) - CONTEXT, given.batch))
            loss.backward()
            optimizer.step()
            if client.clock % LOG_EVERY == 0:
                client.log(loss=loss.item())
        client.barrier()
        client.pull(out={name: p.data.numpy() for name, p in model.named_parameters()})
        if client.rank == 0:
            with torch.no_grad():
                nats = loss_of(model, test, np.arange(0, len(test) - CONTEXT - 1, CONTEXT)).item()
            client.log(test_loss=nats)
            print(f"tinyshakespeare: {nats:.3f} nats per letter of the test part after {client.clock} clocks")


if __name__ == "__main__":
    main()
