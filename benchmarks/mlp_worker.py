"""Images per second of one worker of a data-parallel MLP, 784-1024-1024-10 (1.9 M parameters), batch 64, made-up data.

A script for `psctl run` or, over real links, `psctl worker` on each host. Each matrix is pushed as soon as its gradient
is there, the biases with the last. PyTorch computes where it is installed, else NumPy, with one thread either way.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
import numpy as np

import ps

UNITS, BATCH, WARM_UP, LR = (784, 1024, 1024, 10), 64, 20, 0.01
Array = np.ndarray[Any, Any]


def initial() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    values: dict[str, Array] = {}
    for layer, (inputs, outputs) in enumerate(pairwise(UNITS)):
        values[f"w{layer}"] = (rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)).astype(np.float32)
        values[f"b{layer}"] = np.zeros(outputs, np.float32)
    return values


class ByNumpy:
    """Forward and backward by hand."""

    def __init__(self) -> None:
        self.biases: dict[str, Array] = {}

    def layers(self, p: dict[str, Array], x: Array, y: Array) -> Iterator[dict[str, Array]]:
        """Gradients of the mean cross-entropy: the last matrix first, with the first one all biases."""
        inputs = [x]
        for layer in range(2):
            inputs.append(np.maximum(inputs[-1] @ p[f"w{layer}"] + p[f"b{layer}"], 0))
        scores = inputs[-1] @ p["w2"] + p["b2"]
        back = np.exp(scores - scores.max(axis=1, keepdims=True))
        back /= back.sum(axis=1, keepdims=True)
        back[np.arange(BATCH), y] -= 1
        back /= np.float32(BATCH)
        for layer in (2, 1, 0):
            self.biases[f"b{layer}"] = back.sum(axis=0)
            yield {f"w{layer}": inputs[layer].T @ back, **({} if layer else self.biases)}
            if layer:
                back = (back @ p[f"w{layer}"].T) * (inputs[layer] > 0)


class ByTorch:
    """The same network as autograd computes it; its parameters are the arrays of `p`."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        torch.set_num_threads(1)

    def layers(self, p: dict[str, Array], x: Array, y: Array) -> Iterator[dict[str, Array]]:
        torch = self.torch
        tensors = {name: torch.from_numpy(value).requires_grad_() for name, value in p.items()}
        h = torch.from_numpy(x)
        for layer in range(3):
            h = torch.addmm(tensors[f"b{layer}"], h, tensors[f"w{layer}"])
            h = torch.relu(h) if layer < 2 else h
        torch.nn.functional.cross_entropy(h, torch.from_numpy(y)).backward()
        for names in (["w2"], ["w1"], ["w0", "b0", "b1", "b2"]):
            yield {name: tensors[name].grad.numpy() for name in names}


def computer() -> ByTorch | ByNumpy:
    try:
        import torch
    except ImportError:
        return ByNumpy()
    return ByTorch(torch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--alone", action="store_true", help="the same steps without communication")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((BATCH, 784)).astype(np.float32), rng.integers(0, 10, BATCH)
    compute, p = computer(), initial()
    client = None if options.alone else ps.connect()
    if client is not None:
        client.register(p)
        client.pull(out=p)
    began = 0.0
    for step in range(WARM_UP + options.steps):
        if step == WARM_UP:
            began = time.perf_counter()
        grads: dict[str, Array] = {}
        for layer in compute.layers(p, x, y):
            grads.update(layer)
        if client is not None:
            client.push_pull(grads, weight=BATCH, out=p)
        else:
            for name, grad in grads.items():
                p[name] -= LR * grad
    seconds = time.perf_counter() - began
    sizes: dict[str, float] = {}
    if client is not None:
        client.barrier()
        counters = client.metrics.snapshot().counters
        sizes["pushed"] = counters["push_bytes", (("direction", "sent"),)]
        sizes["pulled"] = counters["pull_bytes", (("direction", "received"),)]
        client.close()
    by = type(compute).__name__
    print(json.dumps({"images_per_s": BATCH * options.steps / seconds, "by": by, **sizes}), flush=True)


if __name__ == "__main__":
    main()
