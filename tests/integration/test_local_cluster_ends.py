"""LocalCluster when something ends: workers and servers that are killed, deadlines, interrupts, its close."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ps
from tests.integration.helpers import DEADLINE_S, assert_equal, cluster, our_threads, steps, until_stopped

CHECKOUT = Path(__file__).resolve().parents[2]
MODELS = ["bsp", "ssp:staleness=1", "async"]


# ---- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_name", MODELS)
def test_killed_worker_is_dropped_and_the_rest_finishes(seed: int | None, model_name: str) -> None:
    def crash(client: ps.Client, _: Any) -> None:
        if client.rank == 1 and client.clock == 4:
            one.kill("worker:1")

    with cluster(seed, workers=3, servers=2, consistency=model_name) as one:
        first, killed, third = one.run(steps(10, crash), timeout=DEADLINE_S)
        assert killed is None
        if not model_name.startswith("ssp"):  # under ssp each may read its own cache
            assert_equal(first, third)
        states = [(worker["state"], worker["clock"]) for worker in one.status()["workers"]]
        assert states[0] == states[2] == ("done", 10) and states[1][0] == "lost" and states[1][1] <= 4


@pytest.mark.parametrize("model_name", ["bsp", "ssp:staleness=1"])
def test_lost_worker_that_must_come_back_is_named_by_the_deadline(seed: int | None, model_name: str) -> None:
    def crash(client: ps.Client, _: Any) -> None:
        if client.rank == 1 and client.clock == 4:
            one.kill("worker:1")

    options = {"on_worker_loss": "wait", "restart_s": 0.2}
    text = r"worker 1 was lost at clock \d and not back in 0.2 s"
    with cluster(seed, workers=3, consistency=model_name, **options) as one, pytest.raises(ps.StoppedError, match=text):
        one.run(steps(10, crash), timeout=DEADLINE_S)


def test_async_workers_do_not_wait_for_a_lost_one_even_when_it_may_come_back(seed: int | None) -> None:
    def train(client: ps.Client) -> int:
        client.register({"w": np.zeros(3, np.float32)})
        for _ in range(10):
            client.pull()
            client.push({"w": np.ones(3, np.float32)})
            client.tick()
            if client.rank == 1 and client.clock == 4:
                one.kill("worker:1")
        return client.clock

    with cluster(seed, workers=3, consistency="async", on_worker_loss="wait") as one:
        assert one.run(train, timeout=DEADLINE_S) == [10, None, 10]


@pytest.mark.parametrize("model_name", MODELS)
def test_killed_server_ends_everybody_and_is_named_with_what_it_held(seed: int | None, model_name: str) -> None:
    ended: list[type[BaseException]] = []

    def crash(client: ps.Client, _: Any) -> None:
        if client.rank == 1 and client.clock == 4:
            one.kill("server:0")

    def train(client: ps.Client) -> None:
        try:
            steps(1000, crash)(client)
        except BaseException as error:
            ended.append(type(error))
            raise

    with cluster(seed, workers=3, servers=2, consistency=model_name) as one:
        held = r"server 0 was lost \(it was killed\|its process was killed\) with the only copy of"
        with pytest.raises(ps.StoppedError, match=held.replace(r"\|", "|")) as raised:
            one.run(train, timeout=DEADLINE_S)
        assert "bundle of 2 ('w' ...)" in str(raised.value) and "start the run again" in str(raised.value)
        assert ended == [ps.StoppedError] * 3
        with pytest.raises((ps.StoppedError, ps.DeadlineError), match="server 0"):
            one.pull(timeout=5.0)
        one.kill("server:0")  # dead already


def test_owner_kills_while_it_runs(seed: int | None) -> None:
    started = threading.Event()

    def train(client: ps.Client) -> int:
        client.register({"w": np.zeros(3, np.float32)})
        while not client.should_stop:
            client.push_pull({"w": np.ones(3, np.float32)})
            started.set()
        return client.clock

    with cluster(seed, workers=3) as one:
        one.start(train)
        assert started.wait(DEADLINE_S)
        one.kill("worker:2")
        one.kill("worker:2")
        one.stop("enough")
        assert one.results(timeout=DEADLINE_S)[2] is None


@pytest.mark.parametrize(
    "peer", ["worker:2", "server:1", "worker", "worker:x", "worker:-1", "worker:²", "controller", ""]
)
def test_kill_of_nobody_lists_who_is_there(seed: int | None, peer: str) -> None:
    with cluster(seed) as one:
        one.run(lambda client: None, timeout=DEADLINE_S)
        with pytest.raises(ps.ConfigError, match="kill: expected one of worker:0 to worker:1, server:0 to server:0"):
            one.kill(peer)


# ---- deadlines and the end ------------------------------------------------------------------------------------------


def test_deadline_of_a_run_names_the_workers_that_still_train(seed: int | None) -> None:
    release = threading.Event()

    def train(client: ps.Client) -> None:
        client.register({"w": np.zeros(3, np.float32)})
        client.push_pull({"w": np.ones(3, np.float32)})
        if client.rank == 1:
            release.wait(DEADLINE_S)  # in virtual time this holds everybody

    with cluster(seed, timeout_s=2.0) as one:
        one.start(train)
        with pytest.raises(ps.DeadlineError, match=r"after 0.5 s train has not returned in .*worker 1 \(at clock 1\)"):
            one.results(timeout=0.5)
        release.set()
        assert one.results(timeout=DEADLINE_S) == [None, None]


def test_virtual_time_that_stands_still_is_explained() -> None:
    inside, release = threading.Event(), threading.Event()

    def train(client: ps.Client) -> None:
        inside.set()
        release.wait(DEADLINE_S)

    with cluster(1, timeout_s=0.2) as one:
        one.start(train)
        assert inside.wait(DEADLINE_S)
        with pytest.raises(ps.DeadlineError, match=r"virtual time has not moved: .*only one of them runs at a time"):
            one.status()
        release.set()
        one.results(timeout=DEADLINE_S)


def test_virtual_time_without_an_end_to_any_wait_is_told() -> None:
    def train(client: ps.Client) -> None:
        client.register({"w": np.zeros(3, np.float32)})
        client.spend(float("inf"))

    with cluster(1) as one:
        one.start(train)
        with pytest.raises(ps.DeadlineError, match="nothing can happen any more"):
            one.results()


def test_close_ends_workers_that_still_run(seed: int | None) -> None:
    running = threading.Event()

    def train(client: ps.Client) -> None:
        client.register({"w": np.zeros(3, np.float32)})
        running.set()
        if client.rank == 0:
            client.spend(10_000.0)
        else:
            until_stopped_or_killed(client)

    def until_stopped_or_killed(client: ps.Client) -> None:
        while True:
            client.spend(0.001)
            client.log(at=client.clock)

    with cluster(seed) as one:
        one.start(train)
        assert running.wait(DEADLINE_S)
    assert our_threads() == []
    with pytest.raises(ps.StoppedError, match=r"closed while workers \[0, 1\] ran"):
        one.results()


def test_calls_before_and_after_the_run_say_what_is_wrong(seed: int | None) -> None:
    with cluster(seed) as one:
        with pytest.raises(ps.ConfigError, match="pull: nothing runs yet"):
            one.pull()
        with pytest.raises(ps.ConfigError, match="kill: nothing runs yet"):
            one.kill("worker:0")
        with pytest.raises(ps.ConfigError, match="results: nothing runs yet"):
            one.results()
        with pytest.raises(ps.ConfigError, match="run: timeout: expected seconds > 0, or None for no limit, got 0"):
            one.run(until_stopped, timeout=0)
        with pytest.raises(ps.ConfigError, match="expected a function that takes a client, got 3"):
            one.run(3)  # type: ignore[arg-type]
        assert one.run(lambda client: 1, timeout=DEADLINE_S) == [1, 1]
    one.close()
    for call in (one.pull, lambda: one.kill("worker:0"), one.stop, lambda: one.start(until_stopped)):
        with pytest.raises(ps.ConfigError, match="this cluster is closed"):
            call()
    assert one.status()["stopped"] == "all workers are done" and one.results() == [1, 1] and one.checksum()


def test_train_may_close_its_own_cluster(seed: int | None) -> None:
    one = cluster(seed)
    one.start(lambda client: one.close())
    with pytest.raises(ps.StoppedError, match="closed while workers"):
        one.results(timeout=DEADLINE_S)
    one.close()


INTERRUPTED = """
import sys, threading
import numpy as np
import ps

def train(client):
    client.register({"w": np.zeros(3, np.float32)})
    while True:
        client.push_pull({"w": np.ones(3, np.float32)})
        if client.rank == 0 and client.clock == 3:
            print("training", flush=True)

try:
    with ps.LocalCluster(workers=2, seed=eval(sys.argv[1])) as cluster:
        cluster.run(train)
except KeyboardInterrupt:
    print("interrupted,", threading.active_count(), "thread", flush=True)
"""


def test_interrupt_by_the_user_ends_the_run_and_its_threads(seed: int | None) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "training\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=DEADLINE_S)[0] == "interrupted, 1 thread\n"
        finally:
            process.kill()
    assert process.returncode == 0


def test_no_thread_is_left_and_repeated_clusters_do_not_pile_up(seed: int | None) -> None:
    before = threading.active_count()
    for attempt in range(8):
        with cluster(seed, servers=2, workers=3) as one:
            if attempt % 4 == 0:
                one.run(partial(steps(2)), timeout=DEADLINE_S)
                one.pull()
            elif attempt % 4 == 1:
                with pytest.raises(ZeroDivisionError):
                    one.run(lambda client: 1 // 0, timeout=DEADLINE_S)
            elif attempt % 4 == 2:
                one.start(until_stopped)
        assert our_threads() == [] and threading.active_count() == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers: expected greater than or equal to 1, got 0"),
        ({"servers": "two"}, "servers: expected a number >= 1, or colocated, got 'two'"),
        ({"consistensy": "bsp"}, "consistensy: expected one of .*consistency.*got an unknown option"),
        ({"consistency": "bulk"}, "consistency: expected one of async, .*, ssp or package.module:Class, got 'bulk'"),
        ({"consistency": "ssp:staleness=-1"}, "consistency: ssp: staleness: expected greater than or equal to 0"),
        ({"consistency": "ssp:bound=1"}, "consistency: ssp expected one of staleness, got 'bound'"),
        ({"consistency": "ssp"}, "consistency: ssp: staleness: expected a value, got none"),
        ({"optimizer": "sdg:lr=1"}, "optimizer: expected one of adagrad, .*sgd or package.module:Class, got 'sdg'"),
        ({"optimizer": "sgd:lr=0"}, "optimizer: sgd: lr: expected greater than 0, got '0'"),
        ({"optimizer": "sgd:rate=1"}, "optimizer: sgd expected one of lr, .*got 'rate'"),
        ({"schedule": "linear"}, "schedule: expected one of .*cosine.*got 'linear'"),
        ({"on_worker_loss": "ignore"}, "on_worker_loss: expected 'wait' or 'drop', got 'ignore'"),
        ({"timeout_s": 0}, "timeout_s: expected greater than 0, got 0"),
        ({"seed": -1}, "seed: expected greater than or equal to 0, got -1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_options_name_field_expected_and_got(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ps.ConfigError, match=text):
        ps.LocalCluster(**options)
    assert our_threads() == []
