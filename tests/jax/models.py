"""A small network with its data, and two ways to train it: by workers together, by one process and optax alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ps
import ps.jax

BATCH = 8  # rows of a worker's batch
Array = np.ndarray[Any, Any]


def wide(is_wide: bool) -> AbstractContextManager[None]:
    """Where JAX has float64. It is of a thread, so each worker says it for itself."""
    context: AbstractContextManager[None] = jax.enable_x64(is_wide)
    return context


def initial_params(dtype: Any = np.float32) -> Any:
    """Two layers: dicts, lists, tuples, None."""
    random = np.random.default_rng(0)

    def layer(rows: int, columns: int) -> dict[str, Array]:
        w = random.standard_normal((rows, columns)) / np.sqrt(rows)
        return {"w": w.astype(dtype), "b": np.zeros(columns, dtype)}

    return {"layers": [layer(12, 48), layer(48, 4)], "scales": (np.ones(4, dtype), np.ones((), dtype)), "head": None}


def data(dtype: Any = np.float32) -> tuple[Array, Array]:
    """Rows of 12 numbers; the label is which of the first four is the largest."""
    x = np.random.default_rng(1).standard_normal((64, 12))
    return x.astype(dtype), x[:, :4].argmax(1)


def loss(params: Any, x: Any, y: Any) -> jax.Array:
    first, second = params["layers"]
    scores = (jnp.tanh(x @ first["w"] + first["b"]) @ second["w"] + second["b"]) * params["scales"][0]
    scores = scores * params["scales"][1]
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], axis=1).mean()


gradient = jax.jit(jax.grad(loss))


def batch_of(step: int, worker: int, rows: int = BATCH, dtype: Any = np.float32) -> tuple[Array, Array]:
    """A worker's batch of this step."""
    x, y = data(dtype)
    chosen = (np.arange(rows) + BATCH * (3 * step + worker)) % len(x)
    return x[chosen], y[chosen]


def whole_loss(params: Any) -> float:
    return float(loss(params, *data()))


def run(train: Callable[[ps.Client], Any], workers: int = 1, **options: Any) -> list[Any]:
    """What `train` gives in each worker of a cluster of this process."""
    with ps.LocalCluster(workers=workers, **options) as cluster:
        return cluster.run(train)


def together(
    asked: str | optax.GradientTransformation | None,
    workers: int,
    steps: int,
    *,
    dtype: Any = np.float32,
    batches: Sequence[int] = (),
    **options: Any,
) -> list[Any]:
    """All parameters as each worker has them at the end. asked: the optimizer. options: of the cluster."""

    def train(client: ps.Client) -> Any:
        with wide(dtype == np.float64):
            params = initial_params(dtype)
            if client.rank:  # the values of rank 0 hold
                params = jax.tree.map(lambda leaf: leaf + 1, params)
            optimizer = ps.jax.DistributedOptimizer(asked, params, client)
            rows = batches[client.rank] if batches else BATCH
            for step in range(steps):
                grads = gradient(optimizer.params, *batch_of(step, client.rank, rows, dtype))
                optimizer.step(grads, weight=rows)
            client.barrier()  # with a pull under way
            return jax.tree.map(np.array, optimizer.params)

    return run(train, workers, **{"servers": 2, **options})


def alone(
    make: Callable[[], optax.GradientTransformation],
    workers: int,
    steps: int,
    *,
    dtype: Any = np.float32,
    batches: Sequence[int] = (),
) -> Any:
    """One process that computes every worker's gradient and steps by optax with the mean over all rows."""
    rows = list(batches) or [BATCH] * workers
    with wide(dtype == np.float64):
        inner, params = make(), initial_params(dtype)
        params = jax.tree.map(jnp.asarray, params)
        state = inner.init(params)

        @jax.jit
        def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
            mean = jax.tree.map(lambda *parts: sum(n * g for n, g in zip(rows, parts, strict=True)) / sum(rows), *grads)
            updates, state = inner.update(mean, state, params)
            return optax.apply_updates(params, updates), state

        for step in range(steps):
            grads = [gradient(params, *batch_of(step, worker, n, dtype)) for worker, n in enumerate(rows)]
            params, state = update(grads, state, params)
        return jax.tree.map(np.array, params)


def flat(params: Any) -> Array:
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(params)])


def distance(one: Any, other: Any) -> float:
    """In the 2-norm over all parameters, relative."""
    return float(np.linalg.norm(flat(one) - flat(other)) / np.linalg.norm(flat(other)))
