"""Clusters with a key: they train as without, and who has another key or none is told so and stays outside."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from ps.key import make_key, read_key
from tests.integration.processes.helpers import (
    CHECKOUT,
    SCRIPTS,
    Running,
    Stage,
    assert_bytes_equal,
    descendants,
    environment,
    status,
    wait_until,
)
from tests.integration.processes.problems import CLOCKS, total

PSCTL = [sys.executable, "-m", "ps.cli.main"]
END_S = 20.0
OTHER = "give the same --key FILE (or PS_KEY) to everybody"


@pytest.fixture
def key(stage: Stage) -> Path:
    """Made as a user does."""
    made = stage.start("make-key", [*PSCTL, "key", stage.folder / "key"]).wait(END_S)
    assert made.code == 0, made.err
    return stage.folder / "key"


@pytest.mark.parametrize("servers", [2, "colocated"])
def test_a_run_with_a_key_ends_on_the_same_bytes(stage: Stage, key: Path, servers: object) -> None:
    flags = dict(workers=2, servers=servers, optimizer="momentum:lr=0.1,decay=0.9")
    results = []
    for more in ({}, {"key": key}):
        code, _, err = stage.psctl("bsp.py", 2, **flags, **more).wait()
        assert code == 0, err
        results.append([stage.result(f"worker-{rank}") for rank in range(2)])
    for plain, keyed in zip(*results, strict=True):
        assert_bytes_equal(plain, keyed)


def test_a_killed_worker_comes_back_with_the_key_which_no_command_line_shows(stage: Stage, key: Path) -> None:
    stage.gate("1")
    flags = dict(workers=2, servers=2, consistency="ssp:staleness=1", optimizer="add", max_restarts=1, key=key)
    run = stage.psctl("sums.py", CLOCKS, "1:2:after", **flags)
    worker = int(stage.sign("held 1", run)[0])
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(run.pid)]
    assert not [line for line in lines if str(key).encode() in line or b"BEGIN" in line]
    os.kill(worker, signal.SIGKILL)
    code, out, err = run.wait()
    assert code == 0, err
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS, 1: CLOCKS}))
    secrets = [pair.secret.decode() for pair in (read_key(str(key)).servers, read_key(str(key)).dialers)]
    assert not [secret for secret in (*secrets, "BEGIN") if secret in out + err]


class Cluster:
    """A controller; the others as the test goes on."""

    def __init__(self, stage: Stage, *flags: object) -> None:
        self.stage = stage
        run = [*PSCTL, "controller", "--port", 0, "--optimizer", "add", *flags]
        self.controller = stage.start("controller", run)
        wait_until("it listens", lambda: "PS_CONTROLLER=" in self.controller.said(), 30.0)
        self.address = re.findall(r"PS_CONTROLLER=(\S+)", self.controller.said())[0]

    def start(self, command: str, *argv: object, name: str = "", **env: str) -> Running:
        run = [*PSCTL, command, *argv]
        return self.stage.start(name or command, run, environment(PS_CONTROLLER=self.address, **env))


def test_a_cluster_by_hand_from_its_files_and_variables(stage: Stage, key: Path) -> None:
    """The script takes the key as an argument of `connect`; status and stop by flag."""
    script = stage.folder / "train.py"
    script.write_text(
        "import sys, numpy as np, ps\n"
        "with ps.connect(key=sys.argv[1]) as client:\n"
        "    client.register({'w': np.zeros(4, np.float32)})\n"
        "    print('in', flush=True)\n"
        "    while not client.should_stop:\n"
        "        client.push_pull({'w': np.ones(4, np.float32)})\n"
    )
    (stage.folder / "server.toml").write_text(f'key = "{key}"\n')
    cluster = Cluster(stage, "--key", key)
    server = cluster.start("server", "--config", stage.folder / "server.toml")
    by_hand = environment(PS_CONTROLLER=cluster.address)
    worker = stage.start("worker", [sys.executable, script, key], by_hand)
    wait_until("it trains", lambda: "in" in worker.said().splitlines(), 30.0)
    seen = cluster.start("status", "--key", key).wait(END_S)
    assert seen.code == 0 and "server  state" in seen.out, seen.err
    for name, more in (("without", []), ("other", ["--key", other_key(stage)])):
        refused = cluster.start("stop", *more, name=f"stop-{name}").wait(END_S)
        assert refused.code == 2 and refused.err.endswith(f"; {OTHER}\n"), refused.err
    assert status(cluster.address, read_key(str(key)))["stopped"] is None
    assert cluster.start("stop", PS_KEY=str(key)).wait(END_S).code == 0
    assert [one.wait(END_S).code for one in (worker, server, cluster.controller)] == [0, 0, 0]


@pytest.mark.parametrize("keyed", [True, False])
def test_who_has_another_key_is_told_within_seconds(stage: Stage, key: Path, keyed: bool) -> None:
    cluster = Cluster(stage, *(["--key", key] if keyed else []))
    other = other_key(stage)
    ways: dict[str, list[object]] = {"server": [], "worker": [SCRIPTS / "sums.py", stage.folder, CLOCKS], "status": []}
    ways |= {"agent": [], "submit": ["train.py"]}
    strangers = []
    for who, argv in ways.items():
        command = "worker" if who == "agent" else who
        for name, more in (("other", ["--key", other]), ("none", [])):
            if keyed or more:
                strangers.append(cluster.start(command, *more, *argv, name=f"{who}-{name}"))
    for stranger in strangers:
        code, _, err = stranger.wait(END_S)
        assert code != 0 and f"controller at {cluster.address}: expected one with" in err and OTHER in err, err
    found = cluster.start("doctor", "--key", other).wait(END_S)
    assert found.code == 1 and f"ok       key: {other} in use" in found.out and OTHER in found.out, found
    seen = status(cluster.address, read_key(str(key)) if keyed else None)
    assert seen["stopped"] is None and not seen["agents"]


def test_a_job_is_submitted_with_the_key(stage: Stage, key: Path) -> None:
    """The agent hands it on to its worker, whose folder is another one."""
    cluster = Cluster(stage, "--key", key)
    (stage.folder / "agent").mkdir()
    named = os.path.relpath(key, stage.folder / "agent")
    server = cluster.start("server", PS_KEY=str(key))
    agent = cluster.start("worker", "--key", named, "--directory", SCRIPTS, name="agent")
    submit = cluster.start("submit", "--key", key, "sums.py", stage.folder, CLOCKS)
    assert [one.wait(END_S).code for one in (submit, agent, server, cluster.controller)] == [0, 0, 0, 0], submit.said()
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS}))


def test_beyond_loopback_with_a_key(stage: Stage, key: Path) -> None:
    """Without one it is refused, and the key is what the refusal names first."""
    refused = stage.start("refused", [*PSCTL, "controller", "--port", 0, "--host", "0.0.0.0"]).wait(END_S)
    assert refused.code == 2 and "give --key FILE (made by psctl key FILE, " in refused.err
    cluster = Cluster(stage, "--host", "0.0.0.0", "--key", key)
    cluster.address = f"127.0.0.1:{cluster.address.rpartition(':')[2]}"
    flags = ["--listen", "0.0.0.0:0", "--advertise", "127.0.0.1", "--key", key]
    server = cluster.start("server", *flags)
    worker = cluster.start("worker", "--key", key, SCRIPTS / "sums.py", stage.folder, CLOCKS, PYTHONPATH=str(CHECKOUT))
    assert [one.wait(END_S).code for one in (worker, server, cluster.controller)] == [0, 0, 0]
    assert_bytes_equal(stage.result("sum"), total({0: CLOCKS}))


def other_key(stage: Stage) -> str:
    make_key(path := str(stage.folder / "other"))
    return path
