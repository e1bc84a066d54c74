"""Seeded pushes of factors: what the script of test_factors.py runs in every worker, and the test in one process."""

from __future__ import annotations

from typing import Any

import numpy as np

import ps
from ps.cost import factor_bytes

Array = np.ndarray[Any, Any]

SHAPE = (2048, 1024)  # two slices
SIZES = (8, 0, 1, 64, 8)  # K of each clock


def train(client: ps.Client) -> dict[str, Array]:
    """The values that were read last, and the bytes that were pushed."""
    client.register({"w": np.zeros(SHAPE, np.float32), "b": np.zeros(SHAPE[0], np.float32)})
    values = client.pull()
    for clock, k in enumerate(SIZES):
        rng = np.random.default_rng([client.rank, clock])
        u, v = (rng.standard_normal((k, n)).astype(np.float32) for n in SHAPE)
        values = client.push_pull({"w": ps.Factors(u, v), "b": u.sum(axis=0)}, weight=1 + client.rank)
    return {**values, "bytes": np.array(client.metrics.snapshot().total("push_bytes", direction="sent"))}


def expected_bytes(servers: int) -> int:
    """Of one worker, where nothing is lost."""
    return sum(factor_bytes(k, *SHAPE, min(servers, 2), 2) + 4 * SHAPE[0] for k in SIZES)
