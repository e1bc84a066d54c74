"""Processes that are killed, stopped or restarted: the others go on or everyone ends, in time, and it is said why."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.integration.processes.helpers import (
    SCRIPTS,
    Stage,
    assert_bytes_equal,
    descendants,
    environment,
    is_server,
    status,
    wait_ended,
    wait_until,
)
from tests.integration.processes.problems import CLOCKS, SEED, total
from tests.integration.processes.test_models import MOMENTUM, in_one_process

MODELS = ["bsp", "ssp:staleness=1", "async"]
END_S = 15.0  # after a failure everyone has ended by then
STOP_S = 1.0
LEASE_S = 1.0


@pytest.mark.parametrize("consistency", MODELS)
def test_when_a_worker_is_killed_the_others_finish_without_it(stage: Stage, consistency: str) -> None:
    """What it had pushed counts. The exit code tells of the loss, as a shell would."""
    stage.gate("1")
    flags = dict(workers=2, servers=2, consistency=consistency, optimizer="add", on_worker_loss="drop")
    run = stage.psctl("sums.py", CLOCKS, "1:2:before", **flags)
    os.kill(int(stage.sign("held 1", run)[0]), signal.SIGKILL)
    code, _, err = run.wait()
    assert code == 128 + signal.SIGKILL, err
    assert "worker 1: killed by SIGKILL without leaving the cluster; the others have finished" in err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: 2}))


@pytest.mark.parametrize(
    ("consistency", "place"), [("bsp", "after"), ("ssp:staleness=1", "after"), ("async", "before")]
)
def test_a_killed_worker_is_restarted_and_each_of_its_clocks_counts_once(
    stage: Stage, consistency: str, place: str
) -> None:
    stage.gate("1")
    flags = dict(workers=2, servers=2, consistency=consistency, optimizer="add", max_restarts=1)
    run = stage.psctl("sums.py", CLOCKS, f"1:2:{place}", **flags)
    os.kill(int(stage.sign("held 1", run)[0]), signal.SIGKILL)
    code, _, err = run.wait()
    assert code == 0, err
    assert "worker 1: killed by SIGKILL without leaving the cluster; restart 1 of 1" in err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: CLOCKS}))


def test_bsp_ends_on_the_same_bytes_whether_a_worker_was_restarted_or_not(stage: Stage) -> None:
    stage.gate("1")
    flags = dict(workers=2, servers=2, optimizer=MOMENTUM, seed=SEED, max_restarts=1)
    run = stage.psctl("bsp.py", 2, 1, 2, **flags)
    os.kill(int(stage.sign("held 1", run)[0]), signal.SIGKILL)
    expected = in_one_process(2, MOMENTUM)[-1]
    code, _, err = run.wait()
    assert code == 0 and "restart 1 of 1" in err, err
    for rank in range(2):
        values = stage.result(f"worker-{rank}")
        del values["digests"]
        assert_bytes_equal(values, expected)


def test_without_restarts_left_a_killed_worker_that_others_wait_for_ends_the_run(stage: Stage) -> None:
    stage.gate("1")
    flags = dict(workers=2, optimizer="add", on_worker_loss="wait")
    run = stage.psctl("sums.py", CLOCKS, "1:2:before", **flags)
    os.kill(int(stage.sign("held 1", run)[0]), signal.SIGKILL)
    code, _, err = run.wait(END_S)
    assert code == 128 + signal.SIGKILL and "worker 1: killed by SIGKILL" in err, err


@pytest.mark.parametrize(("who", "consistency"), [("worker", "bsp"), ("worker", "async"), ("server", "async")])
def test_a_process_that_stands_still_for_a_while_goes_on(stage: Stage, who: str, consistency: str) -> None:
    """SIGSTOP while a push is under way; nobody gives it up, what is sent again is not counted twice."""
    stage.gate("1")
    flags = dict(workers=2, servers=2, consistency=consistency, optimizer="add", resend_s=0.2)
    run = stage.psctl("sums.py", CLOCKS, "1:1:after", **flags)
    worker = int(stage.sign("held 1", run)[0])
    pid = worker if who == "worker" else next(filter(is_server, descendants(run.pid)))
    os.kill(pid, signal.SIGSTOP)
    stage.open_gate("1")
    time.sleep(STOP_S)  # how long it stands still is what is tested
    os.kill(pid, signal.SIGCONT)
    code, _, err = run.wait()
    assert code == 0, err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: CLOCKS}))


def test_a_worker_that_stands_still_beyond_its_lease_is_dropped_and_it_is_said(stage: Stage) -> None:
    stage.gate("1")
    flags = dict(workers=2, consistency="async", optimizer="add", on_worker_loss="drop", lease_s=LEASE_S)
    run = stage.psctl("sums.py", CLOCKS, "1:2:before", **flags)
    os.kill(int(stage.sign("held 1", run)[0]), signal.SIGSTOP)
    code, _, err = run.wait(END_S)
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: 2}))
    assert code != 0 and re.search(r"worker 1.*no progress", err), err


def test_a_dropped_worker_that_comes_back_does_not_end_the_others(stage: Stage) -> None:
    """It is told that it was given up, by an exception; what the others go on without cannot fail them."""
    stage.gate("0")
    stage.gate("1")
    flags = dict(workers=2, consistency="async", optimizer="add", on_worker_loss="drop", lease_s=LEASE_S)
    run = stage.psctl("sums.py", CLOCKS, "1:2:before", "0:3:before:alive", **flags)
    pid, controller, _ = stage.sign("held 1", run)
    stage.sign("held 0", run)
    wait_until("worker 1 is lost", lambda: status(controller)["workers"][1]["state"] == "lost")
    stage.open_gate("1")
    assert wait_ended([int(pid)], END_S) == []
    stage.open_gate("0")
    _, _, err = run.wait(END_S)
    assert "it was declared lost" in err, err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: 2}))


def test_when_the_only_copy_of_a_shard_is_killed_everyone_ends_and_it_is_named(stage: Stage) -> None:
    stage.gate("1")
    run = stage.psctl("sums.py", 1000, "1:2:before", workers=2, servers=2, consistency="async", optimizer="add")
    stage.sign("held 1", run)
    everyone = descendants(run.pid)
    victim = max(pid for pid in everyone if is_server(pid))
    os.kill(victim, signal.SIGKILL)
    stage.open_gate("1")
    code, _, err = run.wait(END_S)
    assert code == 128 + signal.SIGKILL, err
    assert re.search(r"server \d was lost .* with the only copy of '(w|whole|wide)'", err), err
    assert re.search(r"\[server \d\] killed by SIGKILL", err), err
    assert wait_ended(everyone, 5.0) == []


def test_training_goes_on_to_the_last_clock_without_a_controller(stage: Stage) -> None:
    """Killed in the middle: workers finish their clocks and leave, servers end after the last of them."""
    stage.gate("middle")
    controller = stage.start("controller", [sys.executable, SCRIPTS / "controller.py", stage.folder, 2, 2])
    address, job = stage.sign("controller", controller)
    joined = environment(PS_CONTROLLER=address, PS_JOB=job)
    servers = [stage.start(f"server-{n}", [sys.executable, "-m", "ps.launch.server"], joined) for n in range(2)]
    script = [sys.executable, SCRIPTS / "unattended.py", stage.folder, CLOCKS, 1]
    workers = [stage.start(f"worker-{n}", script, {**joined, "PS_RANK": str(n)}) for n in range(2)]
    for rank, worker in enumerate(workers):
        stage.sign(f"held {rank}", worker)
    assert [server["state"] for server in status(address)["servers"]] == ["running", "running"]
    controller.process.kill()
    stage.open_gate("middle", 2)
    for rank, worker in enumerate(workers):
        code, _, err = worker.wait(END_S)
        assert code == 0, err
        assert f"controller at {address}" in err and "training goes on without it" in err, err
        assert_bytes_equal(stage.result(f"sum-{rank}"), total({0: CLOCKS, 1: CLOCKS}))
    for server in servers:
        assert server.wait(END_S).code == 0


def test_nothing_is_left_behind_when_psctl_itself_is_killed(stage: Stage) -> None:
    stage.gate("1")
    run = stage.psctl("sums.py", CLOCKS, "1:1:before", workers=2, servers=2, optimizer="add")
    stage.sign("held 1", run)
    everyone = descendants(run.pid)
    assert len(everyone) >= 4
    run.process.kill()
    assert wait_ended(everyone, 5.0) == []


def test_ctrl_c_ends_a_run_in_seconds(stage: Stage) -> None:
    """One worker waits for the other, which waits for us."""
    stage.gate("1")
    run = stage.psctl("sums.py", CLOCKS, "1:1:before", workers=2, servers=2, optimizer="add")
    stage.sign("held 1", run)
    everyone = descendants(run.pid)
    os.kill(run.pid, signal.SIGINT)
    code, _, err = run.wait(END_S)
    assert code == 128 + signal.SIGINT, err
    assert wait_ended(everyone, 5.0) == []
    assert Path(stage.folder / "sum.npz").exists() is False
