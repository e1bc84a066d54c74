"""The script's side of a `Stage`: signs, gates, results. Imported by the scripts, never by pytest."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(sys.argv[1])
BEAT_S = 0.1


def say(*words: object) -> None:
    """A sign for the test: one line, whole, at once."""
    fd = os.open(FOLDER / "signs", os.O_WRONLY)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def wait_at(gate: str, meanwhile: Callable[[], None] | None = None) -> None:
    """Until the test opens it; `meanwhile` is called again and again."""
    fd = os.open(FOLDER / f"gate-{gate}", os.O_RDONLY)
    while meanwhile is not None and not select.select([fd], [], [], BEAT_S)[0]:
        meanwhile()
    os.read(fd, 1)
    os.close(fd)


def leave(name: str, **arrays: np.ndarray[Any, Any]) -> None:
    """A result for the test."""
    np.savez(FOLDER / f"{name}.npz", **arrays)  # type: ignore[arg-type]
