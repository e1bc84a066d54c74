"""What people think of films they have not seen: biased matrix factorisation with PyTorch on MovieLens-100k.

psctl run --workers 2 examples/movies.py --data FOLDER              # RMSE 0.928 on fold u1; 0.930 alone
psctl run --workers 2 --consistency ssp:staleness=3 --compression onebit \\
    examples/movies.py --data FOLDER                                # 0.927

Prediction = mean + user's bias + film's bias + user's factors . film's factors (Koren, Bell & Volinsky, 2009).
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

USERS, FILMS, LOG_EVERY = 943, 1682, 20


def load(path: Path) -> Any:
    """(user, film, rating) rows, counted from 0. Exits, saying why, when they cannot be read."""
    try:
        return np.loadtxt(path, np.int64, usecols=(0, 1, 2)) - (1, 1, 0)
    except (OSError, ValueError) as error:
        sys.exit(f"movies: --data: expected a folder with movielens-100k/u1.base and u1.test, got this: {error}")


class Factorisation(nn.Module):
    """Ratings from users and films."""

    def __init__(self, factors: int, mean: float) -> None:
        super().__init__()
        self.mean = mean
        self.users, self.films = nn.Embedding(USERS, factors), nn.Embedding(FILMS, factors)
        self.user_bias, self.film_bias = nn.Embedding(USERS, 1), nn.Embedding(FILMS, 1)
        for table in (self.users, self.films):
            nn.init.normal_(table.weight, std=0.1)
        for table in (self.user_bias, self.film_bias):
            nn.init.zeros_(table.weight)

    def squares(self, user: torch.Tensor, film: torch.Tensor) -> torch.Tensor:
        """Of all that a prediction is made of, for each."""
        parts = (self.users(user), self.films(film), self.user_bias(user), self.film_bias(film))
        return torch.cat(parts, dim=1).square().sum(1)

    def forward(self, user: torch.Tensor, film: torch.Tensor) -> torch.Tensor:
        bias = self.user_bias(user) + self.film_bias(film)
        rating: torch.Tensor = self.mean + bias[:, 0] + (self.users(user) * self.films(film)).sum(1)
        return rating


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("PS_DATA"), help="folder of the data sets [PS_DATA]"
    )
    parser.add_argument("--factors", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--l2", type=float, default=0.12)
    parser.add_argument("--batch", type=int, default=500, help="ratings per worker and step")
    given = parser.parse_args()
    if given.data is None:
        parser.error("--data: expected the folder of movielens-100k, or PS_DATA")
    train, test = (load(Path(given.data) / "movielens-100k" / name) for name in ("u1.base", "u1.test"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(0)
    model = Factorisation(given.factors, float(train[:, 2].mean()))
    with ps.connect() as client:
        own = torch.optim.Adam(model.parameters(), given.lr)
        optimizer = ps.torch.DistributedOptimizer(own, model, client)
        for (rows,) in ps.data.shard((train,), client, batch=given.batch, epochs=given.epochs):
            user, film, rating = torch.from_numpy(rows).T
            optimizer.zero_grad()
            optimizer.examples = len(rows)
            loss = nn.functional.mse_loss(model(user, film), rating.float())
            (loss + given.l2 * model.squares(user, film).mean()).backward()
            optimizer.step()
            if client.clock % LOG_EVERY == 0:
                client.log(train_rmse=loss.item() ** 0.5)
        client.barrier()
        optimizer.synchronize()
        if client.rank == 0:
            user, film, rating = torch.from_numpy(test).T
            with torch.no_grad():
                rmse = (model(user, film).clip(1, 5) - rating).square().mean().sqrt().item()
            client.log(test_rmse=rmse)
            print(f"MovieLens-100k, fold u1: test RMSE {rmse:.3f} after {client.clock} clocks")


if __name__ == "__main__":
    main()
