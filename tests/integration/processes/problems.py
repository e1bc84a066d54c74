"""What the scripts compute, and what must come of it: shared by scripts and tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.sim.oracles.problem import BUNDLE, DOUBLE, LARGE, Problem

Array = np.ndarray[Any, Any]

SEED = 5
CLOCKS = 4
WIDE: dict[str, tuple[int, ...]] = {"wide": (1100, 1000)}  # 4.4 MB in two slices: its messages have parts


def bsp_problem(workers: int) -> Problem:
    """Many kinds of parameters; gradients depend on what was read; uneven weights, several pushes a clock."""
    return Problem(SEED, workers, CLOCKS, repeated=True, groups=(BUNDLE, DOUBLE, LARGE, WIDE))


SHAPES: dict[str, tuple[int, ...]] = {"w": (3, 4), "b": (5,), "whole": (41, 100), "wide": (1100, 1000)}


def start_values() -> dict[str, Array]:
    """Zeros."""
    return {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def integers(rank: int, clock: int) -> dict[str, Array]:
    """What a worker adds in a clock: sums of such are exact in any order."""
    rng = np.random.default_rng([SEED, rank, clock])
    return {name: rng.integers(-8, 9, shape).astype(np.float32) for name, shape in SHAPES.items()}


def total(clocks: dict[int, int]) -> dict[str, Array]:
    """Of so many clocks of each rank."""
    values = start_values()
    for rank, count in clocks.items():
        for clock in range(count):
            for name, part in integers(rank, clock).items():
                values[name] += part
    return values
