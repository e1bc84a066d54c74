"""`psctl controller`, `server` and `worker` as real processes on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from ps.control.commands import ask_stop, fetch_status
from ps.launch.followed import MISSING_EVERY_S, Missing
from ps.launch.view import Plain

CHECKOUT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0
GONE = "(is gone.*; training goes on without it)"

TRAIN = """
import os, sys
import numpy as np
import ps

with ps.connect() as client:
    client.register({"w": np.zeros(4, np.float32)})
    print("rank", client.rank, sys.argv[1:], flush=True)
    for clock in range(3):
        client.pull()
        client.push({"w": np.ones(4, np.float32)})
        if "logs" in sys.argv:
            client.log(half=clock / 2)
        client.tick()
    if "fails" in sys.argv:
        raise ValueError("on purpose")
    while "endless" in sys.argv and not client.should_stop:
        client.pull()
        client.tick()
"""


class Place:
    """A folder with a script, and the processes started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.started: list[subprocess.Popen[str]] = []
        (folder / "train.py").write_text(TRAIN)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PS_")}
        self.env |= {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}

    def psctl(self, *argv: str, **env: str) -> subprocess.Popen[str]:
        """Starts it; stdout and stderr are one pipe."""
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [sys.executable, "-m", "ps.cli.main", *argv]
        process = subprocess.Popen(command, env={**self.env, **env}, cwd=self.folder, **pipes)
        self.started.append(process)
        return process

    def controller(self, *flags: str) -> subprocess.Popen[str]:
        """Listening at `address`."""
        process = self.psctl("controller", "--port", "0", *flags)
        self.address = words(process, r"PS_CONTROLLER=(\S+) PS_JOB=[0-9a-f]{32}\n")
        return process

    def server(self, **env: str) -> subprocess.Popen[str]:
        return self.psctl("server", "--controller", self.address, **env)

    def worker(self, *args: str) -> subprocess.Popen[str]:
        return self.psctl("worker", "--controller", self.address, "train.py", *args)


def words(process: subprocess.Popen[str], pattern: str) -> str:
    """The first group in the next line that matches."""
    assert process.stdout is not None
    before = []
    for line in process.stdout:
        if (found := re.search(pattern, line)) is not None:
            return found[1]
        before.append(line)
    raise AssertionError(f"no {pattern!r} in {before}")


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it said since then."""
    out, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.communicate()


def test_a_cluster_by_hand(at: Place) -> None:
    controller = at.controller("--servers", "2", "--workers", "2")
    servers, workers = [at.server(PS_SHARD=str(1 - i)) for i in range(2)], [at.worker("--servers", "x"), at.worker()]
    told = [end(process) for process in workers]
    assert sorted(told) == [(0, "rank 0 ['--servers', 'x']\n"), (0, "rank 1 []\n")] or sorted(told) == [
        (0, "rank 0 []\n"),
        (0, "rank 1 ['--servers', 'x']\n"),
    ]
    assert [end(process) for process in servers] == [(0, "psctl server: all workers are done\n")] * 2
    code, out = end(controller)
    assert code == 0 and out.endswith("ps: the job has ended: all workers are done\n"), out
    assert "ps: all servers and workers are there\n" in out or "waiting for" not in out


def test_a_failed_job_fails_everywhere(at: Place) -> None:
    controller = at.controller()
    server, worker = at.server(), at.worker("fails")
    code, out = end(worker)
    assert code == 1 and out.endswith("ValueError: on purpose\n")
    code, out = end(controller)
    assert code == 1 and "ps: the job has failed: worker 0 failed at clock 3:" in out
    assert end(server)[0] == 1


COMMAND = 'echo from sh: $PS_CONTROLLER $OMP_NUM_THREADS $*; exec {} train.py "$@"'


def test_a_worker_may_be_any_command(at: Place) -> None:
    """psctl becomes it: exit code, output and signals are its own."""
    controller = at.controller("--workers", "2")
    server = at.server()
    at.env.pop("OMP_NUM_THREADS")
    shell = ["--", "sh", "-c", COMMAND.format(sys.executable), "sh"]
    worker = at.psctl("worker", "--controller", at.address, *shell, "--", "-x", OMP_NUM_THREADS="3")
    other = at.psctl("worker", *shell, PS_CONTROLLER=at.address)  # says nothing of threads
    for code, out in (end(worker), end(other)):
        assert code == 0
        assert re.fullmatch(rf"from sh: {at.address}( 3 -- -x)?\nrank [01] (\['--', '-x'\]|\[\])\n", out), out
    assert end(server)[0] == 0 and end(controller)[0] == 0


def test_a_command_that_is_ended_is_a_lost_worker(at: Place) -> None:
    controller = at.controller()
    server = at.server()
    worker = at.psctl("worker", "--controller", at.address, "--", sys.executable, "train.py", "endless")
    words(worker, "(rank 0)")
    worker.send_signal(signal.SIGTERM)
    assert end(worker)[0] == -signal.SIGTERM
    assert end(controller)[0] == 1 and end(server)[0] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_controller_stops_the_job(at: Place, number: signal.Signals) -> None:
    controller = at.controller()
    server, worker = at.server(), at.worker("endless")
    words(worker, "(rank 0)")
    controller.send_signal(number)
    assert end(worker)[0] == 0 and end(server)[0] == 0
    code, out = end(controller)
    assert code == 0 and out.endswith(f"ps: the job has ended: its controller got {number.name}\n"), out


def test_a_second_signal_does_not_wait_for_workers(at: Place) -> None:
    (at.folder / "train.py").write_text(
        TRAIN.replace("    for clock", "    input() or sys.stdin.read()\n    for clock")
    )
    controller, server = at.controller(), at.server()
    read, write = os.pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "ps.cli.main", "worker", "--controller", at.address, "train.py"],
        stdin=read, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=at.env, cwd=at.folder,
    )  # fmt: skip
    at.started.append(worker)
    words(worker, "(rank 0)")
    controller.send_signal(signal.SIGTERM)
    while fetch_status(at.address)["stopped"] is None:
        pass
    controller.send_signal(signal.SIGTERM)
    code, out = end(controller)
    assert "ps: not waiting any longer for worker 0\n" in out and code == 0
    assert end(server)[0] == 0
    os.close(write)
    os.close(read)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_asked_to_stop_says_by_whom_and_what_is_lost(at: Place, number: signal.Signals) -> None:
    controller = at.controller()
    server, worker = at.server(), at.worker("endless")
    words(worker, "(rank 0)")
    while fetch_status(at.address)["workers"][0]["clock"] < 3:
        pass
    server.send_signal(number)
    by = rf"{number.name} from pid {os.getpid()} \(.+\) on {os.uname().nodename}"
    lost = rf"server 0 was lost \(it was asked to stop by {by}\) with the only copy of 'w'; start the run again\n"
    code, out = end(server)
    assert code == 128 + number and re.fullmatch(f"psctl server: {lost}", out), out
    code, out = end(controller)
    assert code == 1 and re.search(f"ps: the job has failed: {lost}", out), out
    code, out = end(worker)
    assert code == 0 or "it was asked to stop by" in out, out  # it looks at should_stop, if its call does not raise


def test_the_values_are_saved_and_what_is_logged_is_in_a_journal(at: Place) -> None:
    controller = at.controller("--save", "model.st", "--log-dir", "logs")
    (at.folder / "server.toml").write_text(f'controller = "{at.address}"\nlisten = "127.0.0.1:0"\n')
    server, worker = at.psctl("server", "--config", "server.toml"), at.worker("logs")
    assert [end(process)[0] for process in (worker, controller, server)] == [0, 0, 0]
    assert load_file(at.folder / "model.st")["w"].tolist() == pytest.approx([-0.3] * 4)
    (journal,) = at.folder.glob("logs/*/run.jsonl")
    first, *logged, last = (json.loads(line) for line in journal.read_text().splitlines())
    assert (first["event"], last["reason"], last["exit_code"]) == ("start", "all workers are done", 0)
    assert [(row["clock"], row["value"]) for row in logged if row["name"] == "half"] == [
        (clock, clock / 2) for clock in range(3)
    ]


def test_values_that_cannot_be_saved_fail_the_job(at: Place) -> None:
    (at.folder / "models").mkdir()
    controller, server = at.controller("--save", "models/model.st"), at.server()
    worker = at.worker("endless")
    words(worker, "(rank 0)")
    (at.folder / "models").rmdir()
    ask_stop(at.address, "enough")
    code, out = end(controller)
    assert code == 1 and "ps: the job has failed: the values could not be saved\n" in out, out
    assert out.splitlines()[-1].startswith("save: models/model.st: "), out
    assert end(worker)[0] == 0 and end(server)[0] == 0


def test_stop_rules_hold_here_too(at: Place) -> None:
    controller = at.controller("--stop-after", "5clocks")
    _, worker = at.server(), at.worker("endless")
    assert end(worker)[0] == 0
    code, out = end(controller)
    assert code == 0 and out.endswith("ps: the job has ended: --stop-after 5clocks is reached\n")


def test_without_its_controller_and_workers_a_server_is_not_left_behind(at: Place) -> None:
    controller = at.controller("--timeout-s", "0.5")
    server = at.server()
    while not fetch_status(at.address)["metrics"]:  # it has heard that it is let in: until then it would dial again
        pass
    controller.kill()
    code, out = end(server)
    assert code == 1 and re.search(GONE, out)


def test_a_script_finishes_without_its_controller_and_then_its_server_does(at: Place) -> None:
    train = TRAIN.replace('    while "endless"', '    sys.stdin.readline()\n    while "endless"').replace("(3)", "(1)")
    (at.folder / "train.py").write_text(train)
    controller, server = at.controller("--timeout-s", "30"), at.server()
    worker = subprocess.Popen(
        [sys.executable, "-m", "ps.cli.main", "worker", "--controller", at.address, "train.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=at.env, cwd=at.folder,
    )  # fmt: skip
    at.started.append(worker)
    words(worker, "(rank 0)")
    controller.kill()
    words(server, GONE)
    assert worker.stdin is not None
    out, _ = worker.communicate("go on\n", timeout=DEADLINE_S)
    assert worker.returncode == 0, out
    assert end(server)[0] == 1  # at once: all workers have left


def test_who_is_missing_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    status = {
        "servers": [{"shard": 0, "state": "running"}, {"shard": 1, "state": "expected"}],
        "workers": [{"rank": 0, "state": "expected"}],
        "stopped": None,
    }
    missing, view = Missing(), Plain()
    now = missing._told_at
    for later in (1.0, MISSING_EVERY_S, MISSING_EVERY_S + 1):
        missing.tell(status, now + later, view)
    assert capsys.readouterr().err == "ps: waiting for server 1, worker 0\n"
    status["servers"][1]["state"] = status["workers"][0]["state"] = "running"  # type: ignore[index]
    for _ in range(2):
        missing.tell(status, now + 100, view)
    assert capsys.readouterr().err == "ps: all servers and workers are there\n"
