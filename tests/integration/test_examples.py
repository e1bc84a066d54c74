"""The examples run as they are: alone, under `psctl run`, the notebook, the demo in a terminal and without one."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLES = CHECKOUT / "examples"
DEADLINE_S = 100  # of one example; reached only by a hang
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm", "COLUMNS": "100"}
TINY = ("--epochs", "1", "--servers", "1", "--workers", "2", "--seconds", "0.5")


def run(script: str, *flags: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs an example as its reader would, with warnings as errors."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *flags]
    return subprocess.run(command, env=ENVIRONMENT, text=True, timeout=DEADLINE_S, **options)


def psctl_run(
    script: str, *flags: str, cwd: Path, ours: tuple[str, ...] = ("--optimizer", "sgd:lr=0.5")
) -> subprocess.CompletedProcess[str]:
    """Runs an example on two workers; the flags are its own."""
    psctl = [sys.executable, "-m", "ps.cli.main", "run", "--workers", "2", *ours]
    command = [*psctl, str(EXAMPLES / script), *flags]
    return subprocess.run(command, env=ENVIRONMENT, text=True, timeout=DEADLINE_S, capture_output=True, cwd=cwd)


def percent_right(output: str) -> float:
    """What a script says in the end."""
    (found,) = re.findall(r"([\d.]+)% of 360 test images right", output)
    return float(found)


def test_adult_learns_as_its_header_says(data_dir: Path, tmp_path: Path) -> None:
    done = psctl_run("adult.py", "--data", str(data_dir), "--epochs", "3", cwd=tmp_path, ours=())
    found = re.search(r"test accuracy ([\d.]+) %, (\d+) of 123", done.stdout + done.stderr)
    assert done.returncode == 0 and found is not None, done.stdout + done.stderr
    assert float(found[1]) > 84.5 and int(found[2]) > 20


def test_adult_without_data_says_what_it_needs(tmp_path: Path) -> None:
    done = run("adult.py", "--data", str(tmp_path), capture_output=True)
    assert done.returncode == 1 and "expected a folder with a9a/a9a" in done.stderr


def run_in_terminal(script: str, *flags: str, cwd: Path) -> str:
    """What an example writes to a terminal; it must succeed."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *flags]
    seen = b""
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd) as process:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:
            pass  # Linux says so when the other end is closed
        finally:
            os.close(ours)
        assert process.wait(DEADLINE_S) == 0, seen.decode()
    return seen.decode()


def checksums(output: str) -> list[str]:
    """The three of the closing table."""
    row = re.search(r"checksum +([0-9a-f]{8}) +([0-9a-f]{8}) +([0-9a-f]{8})", output)
    assert row is not None, output
    return list(row.groups())


def test_first_steps_learn_the_digits_under_every_model() -> None:
    done = run("first_steps.py", capture_output=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    reached = re.findall(r"^(\S+) +([\d.]+)% of", done.stdout, re.MULTILINE)
    assert [model for model, _ in reached] == ["bsp", "ssp:staleness=3", "async"]
    assert all(float(percent) > 92 for _, percent in reached), done.stdout


def test_first_steps_run_as_processes(tmp_path: Path) -> None:
    done = psctl_run("first_steps.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[worker 0] " in done.stdout and percent_right(done.stdout) > 92


def test_digits_learn_alone_and_as_processes(tmp_path: Path) -> None:
    alone = run("digits.py", "--epochs", "10", capture_output=True)
    assert alone.returncode == 0 and percent_right(alone.stdout) > 90, alone.stderr
    assert "one-worker cluster" in alone.stderr
    done = psctl_run("digits.py", "--epochs", "10", "--slow", "2", "--step-ms", "1", cwd=tmp_path)
    assert done.returncode == 0 and percent_right(done.stdout) > 90, done.stderr
    (journal,) = tmp_path.glob("ps-logs/*/run.jsonl")
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {row.get("name") for row in rows} >= {"loss", "epoch", "accuracy", "seconds"}
    assert rows[-1]["event"] == "end" and len(set(rows[-1]["clocks"])) == 1


def test_the_notebook_runs_beside_a_running_event_loop_and_without_warnings() -> None:
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    NotebookClient(notebook, timeout=DEADLINE_S, resources={"metadata": {"path": str(CHECKOUT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    tables = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(tables) == 1 and "worker 3" in tables[0]
    final = re.search(r"([\d.]+)% right in the end", "".join(output.get("text", "") for output in outputs))
    assert final is not None and float(final[1]) > 92


def test_the_demo_gives_the_same_checksums_in_a_terminal_and_without_one(tmp_path: Path) -> None:
    plain = run("demo.py", *TINY, capture_output=True, cwd=tmp_path)
    assert (plain.returncode, plain.stderr) == (0, ""), plain.stderr
    assert "\x1b" not in plain.stdout, "no control codes where there is no terminal"
    assert len(plain.stdout.splitlines()) < 70
    assert "async, processes" in plain.stdout and "clocks of the slow one" in plain.stdout
    plot = tmp_path / "demo-accuracy.png"
    assert str(plot) in plain.stdout and plot.read_bytes().startswith(b"\x89PNG")
    live = run_in_terminal("demo.py", *TINY, "--seconds", "0", cwd=tmp_path)
    assert "worker 1: clock" in live
    assert checksums(live) == checksums(plain.stdout)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--data", "/nowhere"), "--data: expected a folder with MNIST"),
        (("--workers", "0"), "--workers: expected a number from 1"),
        (("--seconds", "-1"), "--seconds: expected a number from 0"),
        (("--out", "/nowhere/plot.png"), "--out: expected a .png file in a folder that exists"),
    ],
)
def test_the_demo_names_a_bad_flag_in_one_line(flags: tuple[str, ...], named: str) -> None:
    done = run("demo.py", *flags, capture_output=True)
    assert done.returncode != 0 and done.stdout == ""
    assert named in done.stderr and len(done.stderr.splitlines()) == 1


def test_git_ignores_what_the_demo_writes() -> None:
    ignored = subprocess.run(["git", "check-ignore", "-q", "demo-accuracy.png"], cwd=CHECKOUT, timeout=DEADLINE_S)
    if ignored.returncode == 128:
        pytest.skip("this is no git checkout: nothing to ignore; clone the repository to run this test")
    assert ignored.returncode == 0
