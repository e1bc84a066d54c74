"""`psctl submit`: a job for the agents of a cluster, from its start to its end, and who is told what."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.integration.processes.helpers import (
    CHECKOUT,
    SCRIPTS,
    Ended,
    Running,
    Stage,
    assert_bytes_equal,
    descendants,
    status,
    wait_ended,
    wait_until,
)
from tests.integration.processes.problems import CLOCKS, total

PSCTL = [sys.executable, "-m", "ps.cli.main"]
END_S = 30.0

RAISES = """
import numpy as np, ps

with ps.connect() as client:
    client.register({"w": np.zeros(3, np.float32)})
    for step in range(5):
        client.pull()
        assert (step, client.rank) != (2, 1), "a mistake in step 3"
        client.push({"w": np.ones(3, np.float32)})
        client.tick()
"""


class Cluster:
    """A controller and a server; agents and jobs as the test goes on."""

    def __init__(self, stage: Stage, *flags: object, workers: int = 2) -> None:
        self.stage = stage
        run = [*PSCTL, "controller", "--port", 0, "--workers", workers, "--optimizer", "add", *flags]
        self.controller = stage.start("controller", run)
        wait_until("it listens", lambda: "PS_CONTROLLER=" in self.controller.said(), 30.0)
        self.address = re.findall(r"PS_CONTROLLER=(\S+)", self.controller.said())[0]
        self.server = stage.start("server", [*PSCTL, "server", "--controller", self.address])
        self.agents: list[Running] = []

    def agent(self, directory: Path) -> Running:
        """Once it waits for a job."""
        number = len(self.agents)
        run = [*PSCTL, "worker", "--controller", self.address, "--directory", directory]
        agent = self.stage.start(f"agent-{number}", run)
        self.agents.append(agent)
        wait_until("the controller knows the agent", lambda: agent.pid in self.known(), 30.0)
        return agent

    def known(self) -> list[int]:
        return [agent["pid"] for agent in status(self.address)["agents"]]

    def submit(self, *argv: object, name: str = "submit") -> Running:
        return self.stage.start(name, [*PSCTL, "submit", "--controller", self.address, *argv])

    def codes(self) -> list[int]:
        """Of the controller, the server and all agents: everything ends with the job."""
        return [one.wait(END_S).code for one in (self.controller, self.server, *self.agents)]

    def held(self, rank: int, submit: Running) -> int:
        """The pid of the worker of this rank, which waits at its gate."""
        return int(self.stage.sign(f"held {rank}", submit)[0])

    def agent_of(self, worker: int) -> Running:
        """The agent that has started the process."""
        return next(agent for agent in self.agents if worker in descendants(agent.pid))


def last(ended: Ended) -> str:
    return ended.err.splitlines()[-1]


def test_a_submitted_example_runs_to_its_end_on_two_agents(stage: Stage) -> None:
    cluster = Cluster(stage, "--optimizer", "sgd:lr=0.5", "--consistency", "ssp:staleness=3")
    for _ in range(2):
        cluster.agent(CHECKOUT / "examples")
    done = cluster.submit("first_steps.py").wait()
    assert done.code == 0 and re.fullmatch(r"ps: ended after \d+\.\d s: all workers are done", last(done)), done
    assert re.fullmatch(r"\d+ s, clocks? .*", done.out.splitlines()[-1]), done.out
    assert cluster.codes() == [0, 0, 0, 0]
    said = cluster.agents[0].said() + cluster.agents[1].said()
    assert "[worker 0] " in said and "test images right" in said


def test_what_is_submitted_is_trained_saved_and_logged(stage: Stage) -> None:
    cluster = Cluster(stage, "--save", "model.safetensors", "--log-dir", "logs")
    for _ in range(2):
        cluster.agent(SCRIPTS)
    assert cluster.submit("sums.py", stage.folder, CLOCKS).wait().code == 0
    assert cluster.codes() == [0, 0, 0, 0]
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: CLOCKS}))
    assert_bytes_equal(load_file(stage.folder / "controller/model.safetensors"), total({0: CLOCKS, 1: CLOCKS}))
    (journal,) = (stage.folder / "controller/logs").glob("*/run.jsonl")
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert (rows[0]["event"], rows[-1]["event"], rows[-1]["exit_code"]) == ("start", "end", 0)
    submitted = next(row for row in rows if row.get("event") == "submitted")
    assert (submitted["script"], submitted["args"]) == ("sums.py", [str(stage.folder), str(CLOCKS)])


def test_the_traceback_of_a_script_that_raises_is_the_last_that_who_submits_sees(stage: Stage) -> None:
    (stage.folder / "train.py").write_text(RAISES)
    cluster = Cluster(stage)
    for _ in range(2):
        cluster.agent(stage.folder)
    done = cluster.submit("train.py").wait()
    assert done.code == 1
    lines = done.err[done.err.index("[worker 1] exit code 1; its last lines:") :].splitlines()
    assert lines[1] == "Traceback (most recent call last):" and lines[-1] == "AssertionError: a mistake in step 3"
    assert f'File "{stage.folder / "train.py"}", line 8, in <module>' in lines[2]
    assert "worker 1 failed at clock 2" in done.err
    assert cluster.codes() == [1, 1, 0, 0]


def test_a_script_outside_of_the_agents_directory_is_not_run(stage: Stage) -> None:
    (stage.folder / "scripts").mkdir()
    (stage.folder / "secret.py").write_text("raise SystemExit('it was started')")
    (stage.folder / "scripts/link.py").symlink_to(stage.folder / "secret.py")
    cluster = Cluster(stage, workers=1)
    agent = cluster.agent(stage.folder / "scripts")
    done = cluster.submit("link.py").wait()
    assert done.code == 2 and f"got 'link.py', which is {stage.folder / 'secret.py'}; put it there" in last(done)
    assert f"worker 0: the agent on {os.uname().nodename}: SCRIPT: expected a Python file in its directory" in last(
        done
    )
    assert cluster.codes() == [1, 1, 0] and "it was started" not in agent.said()


def test_a_second_job_is_refused_and_told_of_the_first(stage: Stage) -> None:
    stage.gate("1")
    cluster = Cluster(stage)
    for _ in range(2):
        cluster.agent(SCRIPTS)
    first = cluster.submit("--detach", "sums.py", stage.folder, CLOCKS, "1:2:before").wait()
    assert first.code == 0 and f"sums.py {stage.folder} {CLOCKS} 1:2:before" in first.err
    cluster.held(1, cluster.controller)
    second = cluster.submit("other.py", name="second").wait()
    assert second.code == 2 and second.err.count("\n") == 1
    assert second.err.startswith("psctl submit: job: expected a cluster without a job, got one that has 'sums.py ")
    assert re.search(r"submitted \d+ s ago by .*, pid \d+; wait for its end, or end it: psctl stop\n", second.err)
    stage.open_gate("1")
    assert cluster.codes() == [0, 0, 0, 0]
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: CLOCKS}))


def test_without_an_agent_that_is_killed_the_others_finish_and_it_is_said(stage: Stage) -> None:
    stage.gate("1")
    cluster = Cluster(stage, "--on-worker-loss", "drop")
    for _ in range(2):
        cluster.agent(SCRIPTS)
    submit = cluster.submit("sums.py", stage.folder, CLOCKS, "1:2:before")
    worker = cluster.held(1, submit)
    victim = cluster.agent_of(worker)
    os.kill(victim.pid, signal.SIGKILL)
    assert wait_ended([worker], 5.0) == [], "its worker is not left behind"
    done = submit.wait()
    assert done.code == 1, done.err
    words = rf"worker 1: its agent on .*, pid {victim.pid} was lost; the others"
    assert re.search(rf"{words} (go on without it|have finished)", done.err), done.err
    assert re.search(rf"ps: failed after \d+\.\d s: {words} have finished", last(done)), done.err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: 2}))
    assert sorted(cluster.codes()) == [-signal.SIGKILL, 0, 0, 0]


def test_another_agent_takes_the_place_of_a_lost_one_that_is_waited_for(stage: Stage) -> None:
    stage.gate("1")
    cluster = Cluster(stage, "--on-worker-loss", "wait")
    for _ in range(2):
        cluster.agent(SCRIPTS)
    submit = cluster.submit("sums.py", stage.folder, CLOCKS, "1:2:before")
    victim = cluster.agent_of(cluster.held(1, submit))
    os.kill(victim.pid, signal.SIGKILL)
    cluster.agent(SCRIPTS)
    done = submit.wait()
    assert done.code == 0 and "waiting 60 s for another agent to take its place" in done.err, done.err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: CLOCKS}))
    assert sorted(cluster.codes()) == [-signal.SIGKILL, 0, 0, 0, 0]


def test_a_worker_that_is_killed_gives_its_exit_code_to_who_submits(stage: Stage) -> None:
    stage.gate("1")
    cluster = Cluster(stage)
    for _ in range(2):
        cluster.agent(SCRIPTS)
    submit = cluster.submit("sums.py", stage.folder, CLOCKS, "1:2:before")
    os.kill(cluster.held(1, submit), signal.SIGKILL)
    done = submit.wait()
    assert done.code == 128 + signal.SIGKILL, done.err
    assert "worker 1: killed by SIGKILL without leaving the cluster; the others have finished" in done.err
    assert cluster.codes() == [0, 0, 0, 0]


def test_agents_that_are_missing_are_named_and_the_job_may_be_submitted_again(stage: Stage) -> None:
    cluster = Cluster(stage, "--timeout-s", 2)
    agent = cluster.agent(SCRIPTS)
    early = cluster.submit("sums.py", stage.folder, CLOCKS, name="early").wait()
    assert early.code == 2, early.err
    there = rf"1 of 2 agents \({os.uname().nodename}, pid {agent.pid}\), none for worker 1"
    assert re.search(rf"agents: expected 2, got .*{there} after 2 s; start them", last(early)), early.err
    cluster.agent(SCRIPTS)
    assert cluster.submit("sums.py", stage.folder, CLOCKS).wait().code == 0
    assert cluster.codes() == [0, 0, 0, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_that_is_told_to_end_takes_its_worker_along(stage: Stage, number: signal.Signals) -> None:
    stage.gate("1")
    cluster = Cluster(stage)
    for _ in range(2):
        cluster.agent(SCRIPTS)
    submit = cluster.submit("sums.py", stage.folder, CLOCKS, "1:2:before")
    worker = cluster.held(1, submit)
    agent = cluster.agent_of(worker)
    os.kill(agent.pid, number)
    assert agent.wait(END_S).code == 128 + number and wait_ended([worker], 5.0) == []
    done = submit.wait()
    assert done.code == 128 + signal.SIGTERM and "worker 1: killed by SIGTERM without leaving" in done.err, done.err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: 2}))


def test_stop_ends_a_submitted_job_in_order(stage: Stage) -> None:
    stage.gate("1")
    cluster = Cluster(stage)
    for _ in range(2):
        cluster.agent(SCRIPTS)
    submit = cluster.submit("sums.py", stage.folder, 100, "1:2:before")
    cluster.held(1, submit)
    assert stage.start("stop", [*PSCTL, "stop", cluster.address, "--reason", "enough"]).wait().code == 0
    stage.open_gate("1")
    done = submit.wait()
    assert done.code == 0 and last(done).endswith("s: enough"), done.err
    assert cluster.codes() == [0, 0, 0, 0]
