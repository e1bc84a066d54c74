"""MNIST under `psctl run`: the accuracy of the data sets' README, under every model at one learning rate."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.processes.helpers import Stage
from tests.integration.test_mnist import SOFTMAX, activations

SEED = 1
BATCH = 200  # twice that of the runs in one process: half as many clocks, and the same accuracy
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def mnist(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and labels of both parts as .npy, which all workers map."""
    source = data_dir / "mnist"
    if not source.is_dir():
        pytest.skip(f"no MNIST: {source} is no folder; it would hold train-images-idx3-ubyte.gz and three more")
    folder = tmp_path_factory.mktemp("mnist")

    def read(name: str, header: int) -> Array:
        return np.frombuffer(gzip.decompress((source / name).read_bytes()), np.uint8, offset=header)

    np.save(folder / "images.npy", read("train-images-idx3-ubyte.gz", 16).reshape(-1, 784))
    np.save(folder / "labels.npy", read("train-labels-idx1-ubyte.gz", 8).astype(np.int64))
    np.save(folder / "test-images.npy", read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 784))
    np.save(folder / "test-labels.npy", read("t10k-labels-idx1-ubyte.gz", 8).astype(np.int64))
    return folder


@pytest.mark.parametrize(
    "consistency",
    [
        pytest.param("bsp", marks=pytest.mark.soak),  # test_models.py shows that it equals one process to the bit
        pytest.param("ssp:staleness=3", marks=pytest.mark.soak),
        "async",  # the least that any model promises
    ],
)
def test_mnist_reaches_its_known_accuracy_over_processes(stage: Stage, mnist: Path, consistency: str) -> None:
    flags = dict(workers=4, servers=2, consistency=consistency, optimizer=f"sgd:lr={SOFTMAX.lr}", seed=SEED)
    code, _, err = stage.psctl("mnist.py", mnist, SOFTMAX.epochs, BATCH, **flags).wait()
    assert code == 0, err
    images = (np.load(mnist / "test-images.npy") / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    right = activations(stage.result("values"), images)[-1].argmax(axis=1) == np.load(mnist / "test-labels.npy")
    assert right.mean() >= SOFTMAX.expected, f"{consistency}: {right.mean():.2%}, expected {SOFTMAX.expected:.2%}"
