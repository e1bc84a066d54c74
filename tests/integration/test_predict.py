"""`psctl profile`, `psctl simulate` and `psctl recommend` as they are typed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ps.cli.main import main
from ps.experiments.results import read_results
from ps.predict.profile import read_profile
from tests.integration.test_sweep import FILE, SCRIPT

CHECKOUT = Path(__file__).resolve().parents[2]
DEADLINE_S = 200.0


def psctl(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "e.toml").write_text(FILE.replace("seeds = [1, 2]", 'seeds = [1]\nworld = "processes"'))
    return tmp_path / "e.toml"


def test_a_file_of_processes_runs_in_virtual_time(file: Path) -> None:
    out = file.parent / "out"
    assert psctl("simulate", str(file), "-o", str(out), "--jobs", "1") == 0
    results = read_results(out)
    assert results.experiment.world == "virtual"
    assert (len(results.runs), results.missing, results.foreign) == (2, 0, 0), "reports find all of it"
    assert {run.points.axis for run in results.runs if run.points is not None} == {"virtual"}


def test_a_step_of_the_digits_is_measured_and_predicted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three runs of real processes; then 100 workers without payload, who wait for the slowest under bsp."""
    made, out = file.parent / "profile.json", file.parent / "out.csv"
    script = str(CHECKOUT / "examples" / "digits.py")
    argv = ["profile", "-o", str(made), "--optimizer", "sgd:lr=1", script, "--epochs", "100000"]
    command = [sys.executable, "-m", "ps.cli.main", *argv]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    found = read_profile(made)
    shapes = {one.name: one.shape for one in found.parameters}
    assert shapes == {"hidden/w": [64, 128], "hidden/b": [128], "output/w": [128, 10], "output/b": [10]}
    assert found.nbytes == 4 * (64 * 128 + 128 + 128 * 10 + 10)
    assert found.push_share == pytest.approx(1.0, rel=0.02)
    assert found.check is not None
    assert found.check.measured_s > 0
    file.write_text(file.read_text().replace("workers = 2", "workers = 100"))
    assert psctl("simulate", str(file), "--profile", str(made), "--clocks", "3", "-o", str(out)) == 0
    assert "s per clock" in capsys.readouterr().out
    with out.open() as rows:
        clock_s = {row["arm"]: float(row["clock_s"]) for row in csv.DictReader(rows)}
    assert clock_s["bsp"] >= 2.0, "the slowest computes four times 0.5 s"


def test_a_script_that_ends_at_once_cannot_be_measured(file: Path) -> None:
    command = [sys.executable, "-m", "ps.cli.main", "profile", "train.py", "3"]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert done.stderr == "psctl profile: train.py: expected 8 steps or more to measure, got 0\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("simulate", "e.toml"), "workers: expected at most 64 with payload, got 100"),
        (
            ("simulate", "e.toml", "--profile", "none.json"),
            "expected a profile made by psctl profile, got No such file",
        ),
        (("simulate", "e.toml", "--profile", "e.toml"), "expected JSON made by psctl profile, got none"),
        (("simulate", "e.toml", "--profile", "old.json"), "version: expected 3, got 0; make it again"),
        (("simulate", "none.toml"), "none.toml: expected a TOML file"),
        (("profile", "none.py"), "SCRIPT: expected a Python file, got 'none.py', which does not exist"),
        (("profile", "--compression", "onebti", "train.py"), "onebti"),
        (("profile", "--workers", "2", "train.py"), "No such option: --workers"),
        (("recommend", "train.py"), "Missing option"),
        (("recommend", "--hosts", "1", "train.py"), "--hosts"),
        (("recommend", "--hosts", "2", "--rate-mbit", "0", "train.py"), "--rate-mbit: expected a finite number > 0"),
        (("recommend", "--hosts", "2", "--servers", "3", "train.py"), "--servers: expected colocated, or 1 to 2"),
        (("recommend", "--hosts", "2", "none.py"), "SCRIPT: expected a Python file"),
    ],
)
def test_careless_input_gets_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(file.parent)
    file.write_text(file.read_text().replace("workers = 2", "workers = 100"))
    (file.parent / "old.json").write_text(json.dumps({"version": 0}))
    assert psctl(*argv) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1, said
