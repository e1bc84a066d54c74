"""The example for PyTorch, as its header says to start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "flags", [[], ["--consistency", "local:every=4", "--optimizer", "sgd:lr=1"]], ids=["bsp", "local"]
)
def test_two_workers_learn_digits(flags: list[str], tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PS_")}
    command = [sys.executable, "-m", "ps.cli.main", "run", "--workers", "2", "--log-dir", str(tmp_path), *flags]
    done = subprocess.run(
        [*command, str(CHECKOUT / "examples" / "digits_torch.py"), "--epochs", "12"],
        env={**env, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r"test accuracy ([\d.]+) % after (\d+) clocks", done.stdout + done.stderr)
    assert done.returncode == 0 and found is not None, done.stdout + done.stderr
    assert float(found[1]) > 90
