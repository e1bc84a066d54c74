"""`psctl run` as a user meets it: what it says, its exit codes, its logs, and scripts without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.integration.processes.helpers import DEADLINE_S, SCRIPTS, Stage, assert_bytes_equal, environment
from tests.integration.processes.problems import CLOCKS, total

ADDS = """
import ps, numpy as np

with ps.connect() as client:
    client.register({"w": np.zeros(3, np.float32)})
    for step in range(5):
        params = client.pull()
        INSERT
        client.push({"w": np.ones(3, np.float32)})
        client.log(loss=1.0 / (step + 1))
        client.tick()
    client.barrier()
    print("sum", *client.pull()["w"].tolist())
"""


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return tmp_path / "train.py"


def test_the_traceback_of_a_worker_that_raises_in_its_third_step_is_the_last_that_one_sees(
    stage: Stage, train: Path
) -> None:
    train.write_text(ADDS.replace("INSERT", "assert (step, client.rank) != (2, 1), 'a mistake in step 3'"))
    code, out, err = stage.psctl(train, workers=2, servers=2, optimizer="add").wait(30.0)
    assert code == 1
    last = err[err.index("[worker 1] exit code 1; its last lines:") :].splitlines()
    assert last[1] == "Traceback (most recent call last):"
    assert f'File "{train}", line 8, in <module>' in last[2]
    assert last[-1] == "AssertionError: a mistake in step 3"
    assert "worker 1 failed at clock 2" in err and "sum" not in out


def test_a_good_run_leaves_logs_and_every_logged_value(stage: Stage, train: Path) -> None:
    train.write_text(ADDS.replace("INSERT", "pass"))
    run = stage.psctl(train, workers=2, optimizer="add", log_dir=stage.folder / "logs")
    code, out, err = run.wait()
    assert code == 0, err
    assert sorted(out.splitlines()) == ["[worker 0] sum 10.0 10.0 10.0", "[worker 1] sum 10.0 10.0 10.0"]
    (folder,) = (stage.folder / "logs").iterdir()
    assert (folder / "worker-0.log").read_text() == "sum 10.0 10.0 10.0\n"
    first, *logged, last = (json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines())
    assert (first["event"], first["config"]["workers"]) == ("start", 2)
    assert (last["event"], last["exit_code"], last["clocks"]) == ("end", 0, [5, 5])
    for rank in range(2):
        assert [row["value"] for row in logged if (row["rank"], row["name"]) == (rank, "loss")][-1] == 0.2, (
            "the last value is never lost"
        )


def test_a_log_folder_that_cannot_be_made_costs_one_warning(stage: Stage, train: Path) -> None:
    train.write_text(ADDS.replace("INSERT", "print('x' * 1000)"))
    (stage.folder / "occupied").write_text("a file")
    code, out, err = stage.psctl(train, optimizer="add", log_dir=stage.folder / "occupied").wait()
    assert code == 0 and "[worker 0] sum 5.0 5.0 5.0" in out
    assert [line for line in err.splitlines() if "cannot be made" in line or "written" in line] == [
        line for line in err.splitlines() if line.startswith("ps: no logs and no run.jsonl: ")
    ]
    assert err.count("no logs") == 1, err


def test_a_disk_that_is_full_costs_one_warning_for_each_log(stage: Stage, train: Path) -> None:
    """No file of these processes may grow beyond 8 KiB: a write then fails like one to a full disk."""
    train.write_text(ADDS.replace("INSERT", "print('x' * 4000)"))
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "limited", sys.executable, "-m", "ps.cli.main", "run"]
    logs = stage.folder / "logs"
    run = stage.start("run", [*limited, "--optimizer", "add", "--quiet", "--log-dir", logs, train], environment())
    code, _, err = run.wait()
    assert code == 0, err
    (worker_log,) = logs.glob("*/worker-0.log")
    assert err == f"ps: {worker_log} is not written any further: File too large; the run goes on\n"


def test_two_clusters_on_one_host_do_not_meet(stage: Stage, tmp_path: Path) -> None:
    """Both are in the middle of their runs at the same time."""
    stages = [stage, Stage(_made(tmp_path / "other"))]
    try:
        runs = []
        for one in stages:
            one.gate("1")
            flags = dict(workers=2, servers=2, consistency="async", optimizer="add")
            runs.append(one.psctl("sums.py", CLOCKS, "1:2:after", **flags))
        jobs = {one.sign("held 1", run)[2] for one, run in zip(stages, runs, strict=True)}
        assert len(jobs) == 2
        for one, run in zip(stages, runs, strict=True):
            one.open_gate("1")
            code, _, err = run.wait()
            assert code == 0, err
            assert_bytes_equal(one.result("sum"), total({0: CLOCKS, 1: CLOCKS}))
    finally:
        stages[1].close()


def test_a_script_without_psctl_is_a_cluster_of_one_worker_and_says_so(stage: Stage) -> None:
    env = environment(PS_OPTIMIZER="add", PS_CONSISTENCY="ssp:staleness=1")
    run = stage.start("alone", [sys.executable, SCRIPTS / "sums.py", stage.folder, CLOCKS], env)
    code, _, err = run.wait(DEADLINE_S)
    assert code == 0, err
    assert "one-worker" in err or "one worker" in err, err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS}))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--worker", "2", "train.py"], ["--worker", "--help"]),
        (["--workers", "0", "train.py"], ["--workers", "expected", "1", "got '0'"]),
        (["--workers", "two", "train.py"], ["--workers", "'two'"]),
        (["--consistency", "bps", "train.py"], ["--consistency", "'bps'", "bsp"]),
        (["--optimizer", "sgd:lr=x", "train.py"], ["--optimizer", "lr"]),
        (["--stop-after", "5 apples", "train.py"], ["--stop-after", "5000clocks"]),
        (["tran.py"], ["SCRIPT", "'tran.py'", "did you mean train.py?"]),
        ([], ["SCRIPT"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(stage: Stage, argv: list[str], words: list[str]) -> None:
    folder = _made(stage.folder / "run")
    (folder / "train.py").write_text("raise SystemExit('it was started')")
    code, out, err = stage.start("run", [sys.executable, "-m", "ps.cli.main", "run", *argv]).wait(30.0)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("psctl run: ") and all(word in err for word in words), err
    assert sorted(path.name for path in folder.iterdir()) == ["err", "out", "train.py"], "nothing else was made"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
