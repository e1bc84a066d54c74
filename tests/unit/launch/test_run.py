"""Whole runs of small scripts against a stand-in for the controller: what the user sees, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ps.launch.options import Deed, RunOptions
from ps.launch.run import run_cluster
from tests.unit.launch.fake import CHECKOUT, SAY, SERVER, FakeControl

DEADLINE_S = 30.0


class Launch:
    """Runs a script and keeps what came of it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capfd = folder, capfd
        self.control: FakeControl | None = None
        self.out = self.err = ""

    def __call__(self, script: str, workers: int = 1, servers: int = 1, **options: Any) -> int:
        (self.folder / "train.py").write_text(SAY + script)
        config = {"workers": workers, "servers": servers, "timeout_s": 1.0, **options.pop("config", {})}
        given = {"log_dir": str(self.folder / "logs"), "server": SERVER, **options}
        server = given.pop("server")

        def make(config: Any) -> FakeControl:
            self.control = FakeControl(config)
            return self.control

        asked = RunOptions(script=str(self.folder / "train.py"), config=config, grace_s=2.0, **given)
        code = run_cluster(asked, make_control=make, server=server)
        self.out, self.err = self._capfd.readouterr()
        return code

    @property
    def logs(self) -> Path:
        (folder,) = (self.folder / "logs").iterdir()
        return folder

    @property
    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.logs / "run.jsonl").read_text().splitlines()]


@pytest.fixture
def launch(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Launch:
    for variable in [name for name in os.environ if name.startswith("PS_")]:
        monkeypatch.delenv(variable)
    return Launch(tmp_path, capfd)


def test_a_good_run(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PS_OPTIMIZER", "adam")  # an option of ours: the controller is the authority, not it
    monkeypatch.setenv("PS_DATA", "/data")  # not ours
    monkeypatch.delenv("OMP_NUM_THREADS")
    script = """
names = sorted(name for name in os.environ if name.startswith("PS_") or name in ("RANK", "WORLD_SIZE"))
print(*names, sep=",")
print(os.environ["PS_SIZE"], os.environ["PS_LOCAL_RANK"], int(os.environ["OMP_NUM_THREADS"]) >= 1, sys.argv[1:])
say("clock", 3); say("log loss", 0.5); say("done")
"""
    assert launch(script, workers=2, servers=2, args=("--servers", "x")) == 0, launch.err
    names = "PS_CONTROLLER,PS_DATA,PS_FIGURES_S,PS_JOB,PS_LOCAL_RANK,PS_LOCAL_SIZE,PS_RANK,PS_SIZE"
    for rank in (0, 1):
        assert f"[worker {rank}] {names}\n" in launch.out
        assert f"[worker {rank}] 2 {rank} True ['--servers', 'x']\n" in launch.out
        assert f"[server {rank}] shard {rank}\n" in launch.out
    assert "ps: PS_OPTIMIZER is not used; give --optimizer to psctl run\n" in launch.err
    assert "ps: ended after " in launch.err and launch.err.endswith(" s: all workers are done\n")
    first, *logged, last = launch.journal
    assert first["config"]["workers"] == 2 and first["args"] == ["--servers", "x"] and "ps" in first
    own = [row for row in logged if not row["name"].startswith("ps/")]  # our own figures come as time passes
    assert {(row["rank"], row["clock"], row["name"], row["value"]) for row in own} == {
        (0, 3, "loss", 0.5), (1, 3, "loss", 0.5),
    }  # fmt: skip
    assert (last["exit_code"], last["reason"], last["clocks"]) == (0, "all workers are done", [3, 3])
    assert sorted(path.name for path in launch.logs.iterdir()) == [
        "run.jsonl", "server-0.log", "server-1.log", "worker-0.log", "worker-1.log",
    ]  # fmt: skip


def test_the_first_failure_gives_the_code_and_its_traceback_comes_last(launch: Launch) -> None:
    """The others fail of it, and earlier than it has printed its own."""
    script = """
say("clock", 1)
if rank != 1:
    until_stopped()
    raise RuntimeError("StoppedError, because of worker 1")
try:
    1 / 0
except ZeroDivisionError as error:
    say("failed ZeroDivisionError")
    raise ValueError("mine") from error
"""
    assert launch(script, workers=3) == 1
    tail = launch.err[launch.err.index("ps: failed after") :].splitlines()
    assert tail[0].endswith(" s: worker 1 failed at clock 1:")
    assert tail[1] == "[worker 1] exit code 1; its last lines:"
    assert tail[2] == "Traceback (most recent call last):" and "ZeroDivisionError: division by zero" in tail
    assert tail[-1] == "ValueError: mine"
    assert launch.journal[-1]["exit_code"] == 1


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("raise SystemExit(0)", 1, "ended without joining the cluster; expected its script to call ps.connect()"),
        ("import no_such_module", 1, "exit code 1 before it joined the cluster"),
        ("say('done'); raise SystemExit(9)", 9, "exit code 9 after its last clock"),
        ("say('clock 1'); os.kill(os.getpid(), 9)", 137, "worker 0 was lost (killed by SIGKILL without leaving"),
        ("say('clock 1'); os._exit(5)", 5, "worker 0 was lost (exit code 5 without leaving the cluster)"),
    ],
)
def test_ends_without_a_word(launch: Launch, script: str, code: int, text: str) -> None:
    assert launch(script) == code
    assert text in launch.err
    last = launch.err.splitlines()[-1]
    assert (last.startswith("[worker 0] ") and last.endswith("; it printed nothing")) or "no_such_module" in last


def test_under_drop_the_others_finish_and_the_code_is_the_lost_ones(launch: Launch) -> None:
    script = """
say("clock", 1)
if rank == 0:
    os.kill(os.getpid(), 9)
while say("clock", 2) != "ok" or "lost" not in say("states?"):
    pass
say("done")
"""
    assert launch(script, workers=2) == 137
    assert "worker 0: killed by SIGKILL without leaving the cluster; the others go on without it" in launch.err
    assert launch.journal[-1]["clocks"] == [1, 2]


def test_a_worker_is_restarted_with_its_rank(launch: Launch) -> None:
    script = """
import pathlib
life = pathlib.Path(sys.argv[1]) / f"lives-{rank}"
with life.open("a") as file:
    file.write("x")
lives = len(life.read_text())
say("clock", lives)
if rank == 1 and lives < 3:
    os.kill(os.getpid(), 9)
say("done")
"""
    assert launch(script, workers=2, max_restarts=2, args=(str(launch.folder),)) == 0, launch.err
    assert "worker 1: killed by SIGKILL without leaving the cluster; restart 2 of 2" in launch.err
    assert launch.journal[0]["config"]["on_worker_loss"] == "wait"
    assert launch.journal[-1]["clocks"] == [1, 3] and launch.journal[-1]["restarts"] == {"1": 2}


def test_restarts_run_out(launch: Launch) -> None:
    script = 'print("life"); say("clock", 1); os.kill(os.getpid(), 9)'
    assert launch(script, workers=2, max_restarts=1) == 137
    lives = [launch.out.count(f"[worker {rank}] life") for rank in (0, 1)]
    assert max(lives) == 2, f"{lives}: the run ends with the first that has none left, however far the other is"
    assert "restart 1 of 1" in launch.err
    assert launch.control is not None and any(call.startswith("lost ") for call in launch.control.calls)


def test_a_server_that_dies_is_named(launch: Launch) -> None:
    server = (sys.executable, "-c", "import os, signal; print('bad sector', flush=True); os.kill(os.getpid(), 9)")
    assert launch('say("clock", 1); until_stopped()', server=server) == 137
    assert "s: server 0 was lost (killed by SIGKILL) with the only copy of its slices\n" in launch.err
    assert launch.err.endswith("[server 0] killed by SIGKILL; its last lines:\nbad sector\n")


def test_a_server_whose_loss_the_controller_hears_of_first_is_named_with_its_end(launch: Launch) -> None:
    ready = launch.folder / "ready"
    dies = "import os, pathlib, signal; signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), 9)); "
    dies += f"pathlib.Path({str(ready)!r}).touch(); signal.pause()"
    script = """
import pathlib, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
say("server", 0)
until_stopped()
"""
    assert launch(script, args=(str(ready),), server=(sys.executable, "-c", dies)) == 137
    assert "s: server 0 was lost (its connection ended) with the only copy of its slices\n" in launch.err
    assert launch.err.endswith("[server 0] killed by SIGKILL; it printed nothing\n")


def test_stop_when(launch: Launch) -> None:
    script = 'say("clock 1"); say("log val_acc", 0.5 if rank else 0.98); until_stopped(); say("done")'
    assert launch(script, workers=2, stop_when="val_acc>=0.97") == 0, launch.err
    assert launch.err.endswith("s: --stop-when val_acc>=0.97: worker 0 logged 0.98\n")


def test_a_stop_rule_that_holds_is_nothing_that_quiet_would_say(launch: Launch) -> None:
    script = 'say("clock 1"); say("log val_acc", 0.98); until_stopped(); say("done")'
    assert (launch(script, stop_when="val_acc>=0.97", quiet=True), launch.err) == (0, "")


def test_stop_when_misses_no_value_between_two_looks(launch: Launch) -> None:
    script = """
for value in (0.5, 0.98, 0.98, 0.1):
    say("log val_acc", value)
until_stopped(); say("done")
"""
    assert launch(script, stop_when="val_acc>=0.97") == 0, launch.err
    assert launch.err.endswith("s: --stop-when val_acc>=0.97: worker 0 logged 0.98\n")
    assert [row["value"] for row in launch.journal[1:-1]] == [0.5, 0.98, 0.98, 0.1]


def test_a_worker_that_does_not_see_the_end_is_ended(launch: Launch) -> None:
    script = 'say("clock", 5)\nsignal.pause()'
    assert launch(script, stop_after="5clocks") == 0, launch.err
    assert "worker 0: not ended 1 s after the job, so it is made to; expected its loop to look at" in launch.err


def test_the_evaluator_is_not_counted_and_its_cost_is_told(launch: Launch) -> None:
    (launch.folder / "evaluate.py").write_text(
        "import os, signal\nassert 'PS_RANK' not in os.environ and os.environ['PS_ROLE'] == 'reader'\n"
        "print('here', flush=True)\nsignal.pause()\n"
    )
    assert launch('say("done")', evaluator=str(launch.folder / "evaluate.py")) == 0, launch.err
    assert "the evaluator has not ended 1 s after the job, so it is made to\n" in launch.err
    assert launch.control is not None and launch.control.released
    assert "ps: the evaluator used 0." in launch.err and launch.journal[-1]["processes"]["evaluator"]["cpu_s"] >= 0


def test_an_evaluator_that_fails_ends_nothing_but_is_told(launch: Launch) -> None:
    (launch.folder / "evaluate.py").write_text("raise KeyError('evaluator')")
    script = f"""
import pathlib
logs = pathlib.Path({str(launch.folder)!r}) / "logs"
while not any("KeyError" in log.read_text() for log in logs.glob("*/evaluator.log")):
    pass
say("done")
"""
    assert launch(script, evaluator=str(launch.folder / "evaluate.py")) == 1
    assert "the evaluator has failed (exit code 1); the run goes on without it" in launch.err
    assert launch.err.endswith("KeyError: 'evaluator'\n")


def test_no_log_dir_no_matter(launch: Launch) -> None:
    assert launch('print("hello"); say("done")', log_dir="/proc/nowhere") == 0
    assert launch.err.count("no logs and no run.jsonl: /proc/nowhere/") == 1 and "[worker 0] hello" in launch.out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"config": {"servers": "0"}}, "--servers: expected greater than or equal to 1, got '0'"),
        ({"config": {"consistency": "bsb"}}, "--consistency: expected one of "),
        ({"evaluator": "eval.py"}, "--evaluator: expected a Python file, got 'eval.py', which does not exist"),
        ({"save": "/no/such/folder/model"}, "--save: expected a file in a folder that exists and is writable"),
        ({"save": "/tmp"}, "--save: expected a file to write, got the folder '/tmp'"),
        ({"record": "/tmp"}, "--record: expected a folder that does not exist yet, got '/tmp'; nothing is overwritten"),
        ({"stop_after": "5"}, "--stop-after: expected 10epochs, 5000clocks or 600s, got '5'"),
        ({"max_restarts": -1}, "--max-restarts: expected a number >= 0, got -1"),
    ],
)
def test_wrong_options_are_one_line(launch: Launch, options: dict[str, Any], text: str) -> None:
    assert launch("", **options) == 2
    assert launch.err.startswith(f"psctl run: {text}") and launch.err.count("\n") == 1
    assert launch.control is None


DRIVE = """
import sys
from ps.launch.options import RunOptions
from ps.launch.run import run_cluster
from tests.unit.launch.fake import FakeControl, SERVER
options = RunOptions(script=sys.argv[1], config={"workers": 2}, log_dir=sys.argv[2], grace_s=float(sys.argv[3]))
sys.exit(run_cluster(options, make_control=FakeControl, server=SERVER))
"""


@pytest.mark.parametrize("times", [1, 2])
def test_interrupt(tmp_path: Path, times: int) -> None:
    """Once: everybody gets the grace time. Twice: at once, however long that is."""
    ignores = "signal.signal(15, signal.SIG_IGN)" if times == 2 else ""
    (tmp_path / "train.py").write_text(f"{SAY}\n{ignores}\nsay('clock', 1); print(os.getpid())\nsignal.pause()")
    command = [sys.executable, "-c", DRIVE, str(tmp_path / "train.py"), str(tmp_path), "60"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, env=env
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        started = [next(line for line in process.stdout if line.startswith("[worker")) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        if times == 2:
            next(line for line in process.stderr if "interrupted; ending everything" in line)
            process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert "ps: ended after " in process.stderr.read()
    for line in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[-1]), 0)


def test_a_run_that_ends_before_one_of_its_faults_fails(launch: Launch, tmp_path: Path) -> None:
    happened = tmp_path / "happened"
    faults = (
        Deed(5, "cut at clock 5", lambda _: happened.touch()),
        Deed(500, "kill at clock 500", lambda _: pytest.fail("too late")),
    )
    script = 'say("clock", 60)\nwhile not os.path.exists(sys.argv[1]): say("states?")\nsay("done")\n'
    assert launch(script, args=(str(happened),), faults=faults, quiet=True) == 1
    words = "faults: expected all to happen, 1 of 2 has not: kill at clock 500; the run ended at clock 60: "
    assert launch.journal[-1]["reason"] == words + "all workers are done"
    assert words in launch.err
