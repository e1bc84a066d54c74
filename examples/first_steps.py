"""First steps: write `train` once, run it under three consistency models.

    python examples/first_steps.py

Four workers train a softmax regression on scikit-learn's handwritten digits. Everything runs in this process: no
sockets, nothing to start first. The same `train` in processes, of which each runs the last lines of this file:

    psctl run --workers 4 --consistency ssp:staleness=3 --optimizer sgd:lr=0.5 examples/first_steps.py
"""

import os
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import ps

IMAGES, LABELS = load_digits(return_X_y=True)  # 1,797 images of 8 x 8 pixels from 0 to 16, and what they show
ORDER = np.random.default_rng(0).permutation(len(LABELS))
IMAGES, LABELS = (IMAGES[ORDER] / 16).astype(np.float32), LABELS[ORDER]
TEST = 360  # the last so many images are for testing

Values = dict[str, np.ndarray[Any, Any]]


def scores(values: Values, images: Any) -> Any:
    """One row per image, one column per class."""
    return images @ values["weights"] + values["bias"]


def gradients(values: Values, images: Any, labels: Any) -> Values:
    """Of the mean cross-entropy of these examples. With PyTorch or JAX this would be its backward pass."""
    chances = np.exp(scores(values, images))
    chances /= chances.sum(axis=1, keepdims=True)
    chances[np.arange(len(labels)), labels] -= 1
    chances /= len(labels)
    return {"weights": images.T @ chances, "bias": chances.sum(axis=0)}


def train(client: ps.Client) -> None:
    """Each worker runs this. `client` is its line to the servers, which hold the values."""
    # Every worker registers the same names and shapes; the values of rank 0 are the ones that count.
    client.register({"weights": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)})

    # This worker's part of the data, in a new order each epoch. `client.rank` and `client.size` say who it is.
    for images, labels in ps.data.shard((IMAGES[:-TEST], LABELS[:-TEST]), client, batch=32, epochs=20):
        values = client.pull()  # the servers' values now; here a worker may have to wait for others
        grads = gradients(values, images, labels)
        client.push(grads, weight=len(labels))  # on its way; the servers apply it, with their optimizer
        client.tick()  # this worker has finished one more clock

    client.barrier()  # what follows is everybody's work


def right(values: Values) -> str:
    found = scores(values, IMAGES[-TEST:]).argmax(axis=1) == LABELS[-TEST:]
    return f"{found.mean():.1%} of {TEST} test images right"


def main() -> None:
    # bsp: all work on the same clock. ssp: at most 3 clocks apart. async: nobody waits for anybody.
    for model in ("bsp", "ssp:staleness=3", "async"):
        # A seed means virtual time: the same result every time. Without it, the workers are threads in real time.
        with ps.LocalCluster(servers=1, workers=4, consistency=model, optimizer="sgd:lr=0.5", seed=1) as cluster:
            cluster.run(train)
            print(f"{model:15} {right(cluster.pull())}")


if __name__ == "__main__":
    if os.environ.get("PS_CONTROLLER"):  # `psctl run` has started this process, as one of its workers
        with ps.connect() as client:
            train(client)
            if client.rank == 0:
                print(right(client.pull()))
    else:
        main()
