"""The example for JAX, as its header says to start it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pytorch.test_example import psctl_run


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], id="bsp"),
        pytest.param(["--consistency", "local:every=4", "--optimizer", "sgd:lr=1"], id="local", marks=pytest.mark.soak),
    ],
)
def test_two_workers_learn_digits(flags: list[str], tmp_path: Path) -> None:
    output = psctl_run(flags, "digits_jax.py", ["--epochs", "12"], tmp_path)
    found = re.search(r"test accuracy ([\d.]+) % after (\d+) clocks", output)
    assert found is not None and float(found[1]) > 90, output
