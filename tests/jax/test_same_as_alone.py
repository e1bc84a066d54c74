"""W workers under bsp against one process that steps by optax with the mean of the same gradients; `local`, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

from tests.jax.models import alone, batch_of, distance, flat, gradient, initial_params, together, wide

STEPS = 100
OPTAX: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd:lr=0.05": lambda: optax.sgd(0.05),
    "sgd:lr=0.05,weight_decay=0.001": lambda: optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.05)),
    "momentum:lr=0.02,decay=0.8": lambda: optax.sgd(0.02, momentum=0.8),
    "nesterov:lr=0.02,decay=0.8": lambda: optax.sgd(0.02, momentum=0.8, nesterov=True),
    "rmsprop:lr=0.001,decay=0.95": lambda: optax.rmsprop(1e-3, 0.95, eps=1e-8, eps_in_sqrt=False),
    "adam:lr=0.002,beta1=0.8,beta2=0.99,eps=1e-6": lambda: optax.adam(2e-3, b1=0.8, b2=0.99, eps=1e-6),
    "adamw:lr=0.002,eps=1e-6,weight_decay=0.1": lambda: optax.adamw(2e-3, eps=1e-6, weight_decay=0.1),
}


@pytest.mark.parametrize("spec", OPTAX)
@pytest.mark.parametrize("workers", [1, 3])
def test_bsp_in_double_precision(spec: str, workers: int) -> None:
    values = together(spec, workers, STEPS, dtype=np.float64)
    assert all(np.array_equal(flat(values[0]), flat(other)) for other in values)
    assert distance(values[0], alone(OPTAX[spec], workers, STEPS, dtype=np.float64)) < 1e-12


@pytest.mark.parametrize("spec", OPTAX)
def test_bsp_in_single_precision(spec: str) -> None:
    """optax computes 1 - 0.999^t in float32, 3e-5 off at first; servers do so in float64."""
    bound = 5e-6 if "adamw" in spec else 1e-6
    assert distance(together(spec, 2, STEPS)[0], alone(OPTAX[spec], 2, STEPS)) < bound


def test_examples_weigh() -> None:
    """A worker with 12 examples and one with 4: the step is that of all 16."""
    values = together("sgd:lr=0.05", 2, 10, dtype=np.float64, batches=(12, 4))
    assert distance(values[0], alone(OPTAX["sgd:lr=0.05"], 2, 10, dtype=np.float64, batches=(12, 4))) < 1e-12


def test_the_optimizer_may_be_that_of_the_run() -> None:
    values = together(None, 2, 10, dtype=np.float64, optimizer="momentum:lr=0.02,decay=0.8")
    assert distance(values[0], alone(OPTAX["momentum:lr=0.02,decay=0.8"], 2, 10, dtype=np.float64)) < 1e-12


@pytest.mark.parametrize("spec", OPTAX)
def test_local_steps_alone_are_those_of_optax(spec: str) -> None:
    """One worker and `sgd:lr=1` outside: what it has moved is what the servers take over."""
    values = together(spec, 1, 12, dtype=np.float64, consistency="local:every=4", optimizer="sgd:lr=1")
    assert distance(values[0], alone(OPTAX[spec], 1, 12, dtype=np.float64)) < 1e-12


def test_a_round_of_one_clock_with_sgd_equals_bsp() -> None:
    values = together("sgd:lr=0.05", 3, 20, dtype=np.float64, consistency="local:every=1", optimizer="sgd:lr=1")
    assert distance(values[0], together("sgd:lr=0.05", 3, 20, dtype=np.float64)[0]) < 1e-12


def diloco(workers: int, rounds: int, every: int, lr: float, decay: float) -> Any:
    """Douillard et al., arXiv 2311.08105, algorithm 1, with optax's AdamW inside; moments stay with their worker."""
    with wide(True):
        inner, params = optax.adamw(5e-3), initial_params(np.float64)
        update = jax.jit(inner.update)
        states = [inner.init(params)] * workers
        velocity = jax.tree.map(np.zeros_like, params)
        for round in range(rounds):
            ends = []
            for worker in range(workers):
                mine = params
                for step in range(round * every, (round + 1) * every):
                    grads = gradient(mine, *batch_of(step, worker, dtype=np.float64))
                    updates, states[worker] = update(grads, states[worker], mine)
                    mine = optax.apply_updates(mine, updates)
                ends.append(mine)
            moved = jax.tree.map(lambda before, *after: before - sum(after) / workers, params, *ends)
            velocity = jax.tree.map(lambda v, d: decay * v + d, velocity, moved)
            params = jax.tree.map(lambda p, v, d: p - lr * (d + decay * v), params, velocity, moved)
        return jax.tree.map(np.array, params)


def test_diloco_with_adamw_inside_equals_its_formula() -> None:
    options: dict[str, Any] = {"consistency": "local:every=5", "optimizer": "nesterov:lr=0.7,decay=0.9"}
    values = together(optax.adamw(5e-3), 3, 20, dtype=np.float64, **options)
    assert distance(values[0], diloco(3, 4, 5, 0.7, 0.9)) < 1e-12
    assert all(np.array_equal(flat(values[0]), flat(other)) for other in values)
