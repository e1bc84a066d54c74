"""ps.connect() without a cluster: one worker with servers of its own, options from the environment; and forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ps
from tests.integration.helpers import our_threads

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("PS_")]:
        monkeypatch.delenv(variable)


def test_alone_it_is_a_cluster_of_one_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with ps.connect() as client:
        said = capsys.readouterr()
        assert said.out == "" and "this process is a one-worker cluster of its own (bsp, sgd:lr=0.1 or " in said.err
        assert (client.rank, client.size, client.seed) == (0, 1, 0)
        client.register({"w": np.zeros(3, np.float32)})
        assert client.push_pull({"w": np.ones(3, np.float32)})["w"] == pytest.approx([-0.1] * 3)
        assert {"ps controller", "ps server 0"} <= set(our_threads())
    assert our_threads() == []


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"SERVERS": "2", "OPTIMIZER": "sgd:lr=0.5", "CONSISTENCY": "async", "SEED": "9", "WORKERS": "1"}
    for name, value in {**options, "ERROR_FEEDBACK": "true", "DATA": "/data"}.items():
        monkeypatch.setenv(f"PS_{name}", value)
    with ps.connect() as client:
        assert "(async, sgd:lr=0.5)" in capsys.readouterr().err
        assert client.seed == 9 and "ps server 1" in our_threads()
        client.register({"w": np.zeros(3, np.float32)})
        assert (client.push_pull({"w": np.ones(3, np.float32)})["w"] == -0.5).all()


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("PS_OPTIMIZER", "sdg", "environment variable PS_OPTIMIZER: optimizer: expected one of adagrad, .*, got 'sdg'"),
        ("PS_SERVERS", "0", "environment variable PS_SERVERS: servers: expected greater than or equal to 1, got '0'"),
        ("PS_SEED", "", "environment variable PS_SEED: seed: expected a valid integer.*, got ''"),
        ("PS_WORKERS", "4", r"variable PS_WORKERS: expected 1, .*, got 4; use ps.LocalCluster\(workers=4\)"),
        ("PS_CONSISTANCY", "ssp", "PS_CONSISTANCY: expected a run option, did you mean PS_CONSISTENCY?"),
    ],
)
def test_wrong_options_name_their_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ps.ConfigError, match=text):
        ps.connect()
    assert our_threads() == []


def test_a_reader_needs_a_cluster_to_read() -> None:
    with pytest.raises(ps.ConfigError, match=r"connect: role: expected 'worker', .*, got 'reader'; .*LocalCluster"):
        ps.connect(role="reader")


def test_block_that_raises_ends_the_threads_too() -> None:
    with pytest.raises(ZeroDivisionError), ps.connect() as client:
        client.register({"w": np.zeros(3, np.float32) / (1 // 0)})
    assert our_threads() == []


def test_close_twice_and_two_in_one_process() -> None:
    one, two = ps.connect(), ps.connect()
    one.register({"w": np.zeros(3, np.float32)})
    two.register({"w": np.ones(3, np.float32)})
    assert (one.pull()["w"] == 0).all() and (two.pull()["w"] == 1).all()
    for client in (one, one, two):
        client.close()
    assert our_threads() == []


FORK = """
import os, sys, traceback
import numpy as np
import ps

values = {"w": np.zeros(3, np.float32)}
client = ps.connect()
client.register(values)
future = client.push({"w": np.ones(3, np.float32)})
cluster = ps.LocalCluster(workers=1)
child = os.fork()
if child == 0:
    calls = dict(
        pull=client.pull, push=lambda: client.push(values), tick=client.tick, barrier=client.barrier,
        push_pull=lambda: client.push_pull(values), register=lambda: client.register({"v": np.zeros(3)}),
        log=lambda: client.log(loss=1), stop=lambda: client.stop("now"), set_lr=lambda: client.set_lr(1),
        should_stop=lambda: client.should_stop, epoch_ended=lambda: client.epoch_ended(0), result=future.result,
        cluster_run=lambda: cluster.run(len), cluster_stop=cluster.stop, cluster_pull=cluster.pull,
    )
    for name, call in calls.items():
        try:
            print(name, "returned", call())
        except ps.ConfigError as error:
            print(name, error)
    with client, cluster:
        pass  # ends nothing: both are the parent's
    with ps.connect() as own:
        own.register(values)
        print("own client pulls", own.pull()["w"].tolist())
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
client.tick()
print("parent pulls", client.pull()["w"].tolist(), cluster.run(lambda client: client.rank))
client.close()
cluster.close()
"""


def test_client_after_a_fork_raises_with_the_remedy_and_the_parent_goes_on() -> None:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PS_OPTIMIZER": "sgd:lr=1"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    *calls, own, parent = done.stdout.splitlines()
    assert len(calls) == 15
    for line in calls:
        assert "was made before a fork" in line and "in the child, or start children with 'spawn'" in line, line
    assert own == "own client pulls [0.0, 0.0, 0.0]"
    assert parent == "parent pulls [-1.0, -1.0, -1.0] [0]"


def test_script_that_forgets_to_close_ends_all_the_same() -> None:
    script = (
        "import ps, numpy as np\nclient = ps.connect()\nclient.register({'w': np.zeros(3)})\nprint(client.pull()['w'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[0. 0. 0.]\n"), done.stderr
