"""What codecs leave out survives a restart with the worker's own state; without it, the rest starts at zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ps

SPEC = "onebit:min_elements=0,group=16"
N = 64


def gradient(clock: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(clock).standard_normal(N).astype(np.float32)


def trained(clocks: range, start: np.ndarray[Any, Any], state: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """Values and worker state after these clocks of one worker."""

    def train(client: ps.Client) -> dict[str, Any]:
        client.register({"w": start})
        if state is not None:
            client.load_state(state)
        for clock in clocks:
            client.pull()
            client.push({"w": gradient(clock)})
            client.tick()
        client.barrier()
        return client.state()

    with ps.LocalCluster(workers=1, optimizer="sgd:lr=0.5", push_compression=SPEC, seed=1) as cluster:
        (after,) = cluster.run(train)
        return cluster.pull()["w"], after


def test_a_run_in_two_parts_is_the_run_in_one_part() -> None:
    zeros = np.zeros(N, np.float32)
    whole, _ = trained(range(8), zeros, None)
    half, state = trained(range(4), zeros, None)
    assert list(state) == ["ps.compression"] and np.any(state["ps.compression"]["'w'"]["arrays"]["residual"])
    rest, _ = trained(range(4, 8), half, state)
    assert rest.tobytes() == whole.tobytes()
    forgetful, _ = trained(range(4, 8), half, None)
    assert forgetful.tobytes() != whole.tobytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"'w'": {"seed": 0, "encoded": 3, "lr": 0.5, "arrays": {"residual": np.ones(3)}}},
            r"'w'\.residual: expected shape \(64,\), got \(3,\)",
        ),
        ({"'w'": {"arrays": {}, "owed": False, "encoded": 3}}, "expected 'seed', as state"),
        ({"'v'": {}}, r"'v': expected a slice of this model \('w'\), got another"),
        ([], "expected what state\\(\\) gives, got a state that fails with AttributeError"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: Any, words: str) -> None:
    with pytest.raises(ps.ConfigError, match=rf"^load_state: 'ps\.compression': {words}"):
        trained(range(2), np.zeros(N, np.float32), {"ps.compression": change})
