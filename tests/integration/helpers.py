"""A small model, a training loop and a cluster with deadlines: what the integration tests have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import ps

DEADLINE_S = 30.0  # of a whole run; reached only by a hang
Arrays = dict[str, np.ndarray[Any, Any]]


def model() -> Arrays:
    """Two parameters in one bundle, and one with a slice of its own."""
    return {
        "w": np.ones((3, 4), np.float32),
        "b": np.zeros(5, np.float32),
        "big": np.zeros((100, 50), np.float32),
    }


def vector(value: float = 0.0, size: int = 3) -> Arrays:
    """One parameter."""
    return {"w": np.full(size, value, np.float32)}


def nothing(client: ps.Client, grads: Arrays) -> None:
    pass


def noise(params: Arrays, rng: np.random.Generator) -> Arrays:
    """A gradient."""
    return {name: np.asarray(rng.standard_normal(value.shape), np.float32) for name, value in params.items()}


def steps(clocks: int, each: Callable[[ps.Client, Arrays], None] = nothing) -> Callable[[ps.Client], Arrays]:
    """A training loop of so many clocks that returns the last values; `each(client, grads)` comes after every push."""

    def train(client: ps.Client) -> Arrays:
        rng = np.random.default_rng(client.rank)
        client.register(model())
        while client.clock < clocks:
            grads = noise(client.pull(), rng)
            client.push(grads, weight=client.rank + 1)
            each(client, grads)
            client.tick()
        client.barrier()
        return client.pull()

    return train


def until_stopped(client: ps.Client) -> int:
    """Trains until somebody stops the job."""
    client.register(vector())
    while not client.should_stop:
        client.pull()
        client.push(vector(1.0))
        client.tick()
    return client.clock


def cluster(seed: int | None, **options: Any) -> ps.LocalCluster:
    """A LocalCluster of one server and two workers whose calls have a deadline well under the run's."""
    return ps.LocalCluster(**{"workers": 2, "timeout_s": 15.0, "seed": seed, **options})


def run(seed: int | None, train: Callable[..., Any], **options: Any) -> list[Any]:
    """The results of a run in a cluster of its own."""
    with cluster(seed, **options) as one:
        return one.run(train, timeout=DEADLINE_S)


def our_threads() -> list[str]:
    """Names of the living threads that ps has started."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("ps ", "sim "))]


def assert_equal(left: Arrays, right: Arrays) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype and value.tobytes() == right[name].tobytes(), name
