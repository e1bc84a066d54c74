"""Profiles written by hand."""

from __future__ import annotations

from typing import Any

from ps.predict.profile import Codec, Cost, Costs, Measured, Tensor


def cost(seconds: float) -> Cost:
    return Cost(median=seconds, low=seconds, high=seconds)


def profile(count: int = 1, compute_s: float = 0.1, **given: Any) -> Measured:
    """So many parameters of one slice each, 1 MB together."""
    costs = Costs(**{name: cost(seconds) for name, seconds in given.pop("costs", {}).items()})
    codec = Codec(compression=given.pop("compression", "none"))
    own: dict[str, Any] = {"push_share": 1.0, "pull_share": 1.0, **given}
    tensors = [Tensor(name=f"w{i}", shape=[1000 // count, 250]) for i in range(count)]
    return Measured(script="train.py", codec=codec, parameters=tensors, compute_s=[compute_s], costs=costs, **own)
