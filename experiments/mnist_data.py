"""The images of MNIST, read once per process: in virtual time all workers are in one."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@cache
def mnist(folder: Path) -> tuple[Array, Array, Array, Array]:
    """Images as rows of float32 in [0, 1] and labels, to train on; and those to test."""
    parts = []
    for part in ("train", "t10k"):
        images = np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8)
        labels = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8)
        parts += [images[16:].reshape(-1, 784) / np.float32(255), labels[8:].astype(np.int64)]
    return parts[0], parts[1], parts[2], parts[3]
