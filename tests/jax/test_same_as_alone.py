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


def diloco(workers: int, steps: int, every: int, fragments: int, overlap: int, mix: float) -> list[Any]:
    """Streaming DiLoCo (Douillard et al., arXiv 2501.18512, algorithm 2) as each worker has it at the end, AdamW
    inside, Nesterov at 0.7 and 0.9 outside. One fragment without overlap is DiLoCo (arXiv 2311.08105, algorithm 1).

    The large weight is a slice, and what is small another one, which was registered first.
    """
    with wide(True):
        inner, shared = optax.adamw(5e-3), initial_params(np.float64)
        update, spread = jax.jit(inner.update), jax.tree.structure(shared)
        states, mine = [inner.init(shared)] * workers, [jax.tree.leaves(shared)] * workers
        theta, velocity, coming = [*mine[0]], [np.zeros_like(leaf) for leaf in mine[0]], []
        anchor = [*theta]
        for clock in range(1, steps + 1):
            for worker, own in enumerate(mine):
                params = jax.tree.unflatten(spread, own)
                grads = gradient(params, *batch_of(clock - 1, worker, dtype=np.float64))
                updates, states[worker] = update(grads, states[worker], params)
                mine[worker] = jax.tree.leaves(optax.apply_updates(params, updates))
            for i, leaf in enumerate(theta):
                if (clock - (leaf.shape == (12, 48)) * every // fragments) % every == 0:
                    moved = anchor[i] - sum(own[i] for own in mine) / workers
                    velocity[i] = 0.9 * velocity[i] + moved
                    theta[i] = leaf - 0.7 * (moved + 0.9 * velocity[i])
                    coming.append((clock + overlap, i, theta[i]))
            for due, i, values in coming:
                if due == clock:
                    anchor[i] = values
                    for own in mine:
                        own[i] = mix * own[i] + (1 - mix) * values
        return [np.concatenate([np.array(leaf).reshape(-1) for leaf in own]) for own in mine]


@pytest.mark.parametrize(
    ("every", "fragments", "overlap", "mix"), [(5, 1, 0, 0.0), (4, 2, 0, 0.0), (6, 2, 2, 0.5), (5, 1, 3, 0.25)]
)
def test_diloco_with_adamw_inside_equals_its_formula(every: int, fragments: int, overlap: int, mix: float) -> None:
    values = together(
        optax.adamw(5e-3), 3, 20, dtype=np.float64, optimizer="nesterov:lr=0.7,decay=0.9",
        consistency=f"local:every={every},fragments={fragments},overlap={overlap},mix={mix}",
    )  # fmt: skip
    for got, want in zip(values, diloco(3, 20, every, fragments, overlap, mix), strict=True):
        assert distance(flat(got), want) < 1e-12
