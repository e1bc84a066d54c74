"""`psctl run` on real processes: what is saved is what was trained, what is logged is in run.jsonl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

CHECKOUT = Path(__file__).resolve().parents[3]
DEADLINE_S = 120.0

# Two workers, five clocks: each clock commits the mean gradient 1.5 at rate 0.5, so values fall by 0.75.
TRAIN = """
import numpy as np
import ps

with ps.connect() as client:
    client.register({"w": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float32)})
    for clock in range(5):
        params = client.pull()
        client.push({name: np.full_like(value, 1.0 + client.rank) for name, value in params.items()})
        for value in (0.25, 0.25, 0.5):  # equal ones count too
            client.log(loss=value)
        client.tick()
"""

# Reads until it hears of the end; its last look is at the final values.
EVALUATE = """
import pathlib, sys
import ps

with ps.connect(role="reader") as reader:
    while True:
        values = reader.pull()
        if reader._stopped is not None:
            break
    print("last look", float(reader.pull()["b"][0, 0]), flush=True)
"""


@pytest.fixture
def env() -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if not k.startswith("PS_")}, "PYTHONPATH": str(CHECKOUT)}


def psctl_run(folder: Path, env: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(TRAIN)
    ours = ("--servers", "2", "--workers", "2", "--optimizer", "sgd:lr=0.5", "--log-dir", str(folder / "logs"), *flags)
    command = [sys.executable, "-m", "ps.cli.main", "run", *ours, str(folder / "train.py")]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S)


def test_the_saved_values_are_the_trained_ones_and_the_evaluator_sees_them(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    flags = ("--save", str(tmp_path / "model.safetensors"), "--evaluator", str(tmp_path / "evaluate.py"))
    done = psctl_run(tmp_path, env, *flags)
    assert done.returncode == 0, done.stderr
    saved = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(saved["w"], np.arange(6, dtype=np.float32) - 3.75)
    np.testing.assert_array_equal(saved["b"], np.full((2, 3), -2.75, np.float32))
    assert "[evaluator] last look -2.75\n" in done.stdout
    assert done.stderr.endswith("s: all workers are done\n") and "goes on without it" not in done.stderr
    (folder,) = (tmp_path / "logs").iterdir()
    rows = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()][1:-1]
    for rank in (0, 1):
        mine = [(row["clock"], row["value"]) for row in rows if (row["rank"], row["name"]) == (rank, "loss")]
        assert mine == [(clock, value) for clock in range(5) for value in (0.25, 0.25, 0.5)]
        figures = {row["name"]: row["value"] for row in rows if row["rank"] == rank}  # as they ended
        assert (figures["ps/pushed_mb"], figures["ps/pulled_mb"], figures["ps/lr"]) == (5 * 48e-6, 5 * 48e-6, 0.5)
        assert figures["ps/waited_s"] > 0


def test_after_a_stop_rule_the_values_are_saved(tmp_path: Path, env: dict[str, str]) -> None:
    flags = ("--save", str(tmp_path / "model.safetensors"), "--stop-when", "loss>=0.5", "--quiet")
    done = psctl_run(tmp_path, env, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(load_file(tmp_path / "model.safetensors")) == {"w", "b"}


def test_servers_are_the_shards_that_they_are_called(tmp_path: Path, env: dict[str, str]) -> None:
    """Server 1 is killed: the controller blames shard 1."""
    script = "import ps, numpy as np\nclient = ps.connect()\nclient.register({'w': np.ones(3, np.float32)})\n"
    kill = (
        "import os, signal, subprocess\npids = subprocess.check_output(['pgrep', '-P', str(os.getppid())], text=True)"
    )
    find = """
for pid in pids.split():
    environ = open(f'/proc/{pid}/environ', 'rb').read().split(b'\\0')
    if b'PS_SHARD=1' in environ:
        os.kill(int(pid), signal.SIGKILL)
while not client.should_stop:
    client.pull(); client.tick()
"""
    (tmp_path / "kill.py").write_text(script + kill + find)
    command = [sys.executable, "-m", "ps.cli.main", "run", "--servers", "2", "--log-dir", str(tmp_path / "logs")]
    done = subprocess.run(
        [*command, str(tmp_path / "kill.py")], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 137, done.stderr
    assert "server 1 was lost" in done.stderr and "[server 1] killed by SIGKILL" in done.stderr


def test_a_traced_run_leaves_what_its_processes_did(tmp_path: Path, env: dict[str, str]) -> None:
    done = psctl_run(tmp_path, env, "--trace", "true")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "logs").glob("*/peers.json")
    peers = json.loads(path.read_text())["peers"]
    assert sorted(peers) == ["server:0", "server:1", "worker:0", "worker:1"]
    steps = [span for span in peers["worker:0"]["spans"] if span[0] == "step"]
    assert len(steps) == 5 and all(end > start for _, _, start, end in steps)
