"""The examples for PyTorch, as their headers say to start them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], id="bsp"),
        pytest.param(["--consistency", "local:every=4", "--optimizer", "sgd:lr=1"], id="local", marks=pytest.mark.soak),
    ],
)
def test_two_workers_learn_digits(flags: list[str], tmp_path: Path) -> None:
    output = psctl_run(flags, "digits_torch.py", ["--epochs", "12"], tmp_path)
    found = re.search(r"test accuracy ([\d.]+) % after (\d+) clocks", output)
    assert found is not None and float(found[1]) > 90, output


def psctl_run(flags: list[str], script: str, own: list[str], tmp_path: Path) -> str:
    """What two workers print; they must succeed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PS_")}
    command = [sys.executable, "-m", "ps.cli.main", "run", "--workers", "2", "--log-dir", str(tmp_path), *flags]
    done = subprocess.run(
        [*command, str(CHECKOUT / "examples" / script), *own],
        env={**env, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("script", "flags", "text", "at_most"),
    [
        ("movies.py", ["--epochs", "4"], r"test RMSE ([\d.]+) after 320 clocks", 1.0),
        pytest.param(
            "shakespeare.py",
            ["--steps", "20"],
            r"([\d.]+) nats per letter of the test part after 20",
            3.0,
            marks=pytest.mark.soak,
        ),
    ],
)
def test_two_workers_learn_real_data(
    script: str, flags: list[str], text: str, at_most: float, data_dir: Path, tmp_path: Path
) -> None:
    output = psctl_run([], script, [*flags, "--data", str(data_dir)], tmp_path)
    found = re.search(text, output)
    assert found is not None and float(found[1]) < at_most, output
