"""Writes a cluster's values to a safetensors file: `python -m ps.launch.save FILE`, PS_* naming the cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

import ps
from ps.errors import ConfigError, Error
from ps.types import Array


def check_target(path: str) -> None:
    """Found before the run, not after hours of it. Raises: ConfigError."""
    target = Path(path)
    if target.is_dir():
        raise ConfigError(f"--save: expected a file to write, got the folder {path!r}")
    if not os.access(target.absolute().parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--save: expected a file in a folder that exists and is writable, got {path!r}")


def save_command(path: str) -> list[str]:
    """The process that does it, in the environment of the cluster."""
    return [sys.executable, "-P", "-m", "ps.launch.save", path]


def save_values(path: Path) -> None:
    """The current values of the cluster that PS_CONTROLLER and PS_JOB name.

    Raises: what `ps.connect` and `pull` raise, OSError.
    """
    with ps.connect(role="reader") as reader:
        write_safetensors(reader.pull(), path)


def write_safetensors(values: Mapping[str, Array], path: Path) -> None:
    """All or nothing: a reader of `path` sees the old file or the new one, even after a crash. Raises: OSError."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file  # 90 ms

    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    # asarray and not ascontiguousarray, which makes a row of a scalar.
    arrays = {name: np.asarray(value, order="C") for name, value in values.items()}
    try:
        try:
            save_file(arrays, partial, metadata={"format": "np", "writer": f"ps {ps.__version__}"})
        except SafetensorError as error:  # a full disk, among others
            raise OSError(f"{path}: {error}") from None
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


if __name__ == "__main__":
    try:
        save_values(Path(sys.argv[1]))
    except (Error, OSError) as error:
        sys.exit(f"save: {error}")
