"""JAX on handwritten digits: one script under every consistency model and compression, by flags of the run only.

python examples/digits_jax.py                                            # one worker, a cluster of its own
psctl run --workers 2 examples/digits_jax.py --data FOLDER               # MNIST: 97.0 %
psctl run --workers 2 --consistency ssp:staleness=3 --compression onebit examples/digits_jax.py --data FOLDER   # 96.8 %
psctl run --workers 2 --consistency local:every=20 --optimizer nesterov:lr=0.7,decay=0.9 examples/digits_jax.py \\
    --data FOLDER                                                        # DiLoCo: 96.7 %
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from digits import load  # type: ignore[import-not-found, unused-ignore]

import ps
import ps.jax

OPTIMIZER = "momentum:lr=0.05,decay=0.9"  # of the servers; of the workers, by optax, under `local`
LOG_EVERY = 20  # clocks
Params = list[dict[str, Any]]  # a layer's weights and biases


def initial_params(sizes: list[int], seed: int) -> Params:
    """Layers of these sizes (He et al., ICCV 2015)."""
    random = np.random.default_rng(seed)
    shapes = itertools.pairwise(sizes)
    weights = [random.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / shape[0])) for shape in shapes]
    return [{"w": w, "b": np.zeros(w.shape[1], np.float32)} for w in weights]


def scores(params: Params, x: Any) -> Any:
    """Of the ten digits, for each image."""
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def loss(params: Params, x: Any, y: Any) -> Any:
    """The mean cross-entropy of a batch."""
    return -jnp.take_along_axis(jax.nn.log_softmax(scores(params, x)), y[:, None], axis=1).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PS_DATA"), help="folder with MNIST [PS_DATA]")
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    data = load(None if given.data is None else Path(given.data))
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    with ps.connect() as client:
        params = initial_params([data.train[0].shape[1], 128, 10], client.seed)
        optimizer = ps.jax.DistributedOptimizer(OPTIMIZER, params, client)
        for x, y in ps.data.shard(data.train, client, batch=data.batch, epochs=given.epochs or data.epochs):
            value, grads = value_and_grad(optimizer.params, x, y)
            optimizer.step(grads, weight=len(x))
            if client.clock % LOG_EVERY == 0:
                client.log(loss=value)
        client.barrier()
        params = optimizer.pull()
        if client.rank == 0:
            x, y = data.test
            accuracy = float((scores(params, x).argmax(1) == y).mean())
            client.log(test_acc=accuracy)
            print(f"{data.name}: test accuracy {100 * accuracy:.1f} % after {client.clock} clocks")


if __name__ == "__main__":
    main()
