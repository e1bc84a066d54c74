"""LocalCluster: a whole run in one process, in threads and in virtual time; how it ends, well and badly."""

from __future__ import annotations

import asyncio
import threading
import traceback
from typing import Any

import numpy as np
import pytest

import ps
from tests.integration.helpers import DEADLINE_S, assert_equal, cluster, model, run, steps, until_stopped

MODELS = ["bsp", "ssp:staleness=1", "async"]


# ---- results and failures -------------------------------------------------------------------------------------------


def test_results_come_in_rank_order(seed: int | None) -> None:
    def train(client: ps.Client) -> tuple[int, int]:
        client.spend(0.01 * (client.size - client.rank))  # the last rank is the first to end
        return client.rank, client.size

    assert run(seed, train, servers=2, workers=4) == [(0, 4), (1, 4), (2, 4), (3, 4)]


@pytest.mark.parametrize("model_name", ["bsp", "async"])
def test_all_workers_end_with_the_same_values(seed: int | None, model_name: str) -> None:
    first, *others = run(seed, steps(10), servers=2, workers=3, consistency=model_name)
    for other in others:
        assert_equal(first, other)
    assert not np.array_equal(first["big"], model()["big"])


def test_exception_of_train_comes_out_as_raised_and_ends_the_others(seed: int | None) -> None:
    others: list[BaseException] = []

    def broken_loss() -> None:
        raise ZeroDivisionError("no examples in batch 7")

    def train(client: ps.Client) -> None:
        client.register({"w": np.zeros(3, np.float32)})
        client.barrier()
        if client.rank == 1:
            broken_loss()
        try:
            client.push({"w": np.ones(3, np.float32)})
            client.tick()
            client.pull()  # waits for worker 1, which never comes
        except ps.Error as error:
            others.append(error)
            raise

    with cluster(seed, workers=3) as one:
        with pytest.raises(ZeroDivisionError, match="no examples in batch 7") as raised:
            one.run(train, timeout=DEADLINE_S)
        text = "".join(traceback.format_exception(raised.value))
        assert "broken_loss" in text and "raised in worker 1 at clock 0" in text
        assert [type(error) for error in others] == [ps.StoppedError, ps.StoppedError]
        for error in others:
            assert "worker 1 failed" in str(error) and "ZeroDivisionError: no examples in batch 7" in str(error)
        assert "ZeroDivisionError" in one.status()["stopped"]


def test_sys_exit_in_train_does_not_leave_the_others_waiting(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.register({"w": np.zeros(3, np.float32)})
        if client.rank == 0:
            raise SystemExit(3)
        client.tick()
        client.pull()

    with pytest.raises(SystemExit):
        run(seed, train)


def test_failure_with_a_long_text_in_any_script_is_told_to_all(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.register({"w": np.zeros(3, np.float32)})
        if client.rank == 0:
            raise ValueError("損失" * 20_000 + "\udc80")
        client.tick()
        client.pull()

    with cluster(seed) as one:
        with pytest.raises(ValueError, match="損失"):
            one.run(train, timeout=DEADLINE_S)
        assert "損失" in one.status()["stopped"]


def test_first_failure_in_time_is_the_one_that_is_raised() -> None:
    def train(client: ps.Client) -> None:
        client.spend(0.1 * (2 - client.rank))
        raise ValueError(client.rank)

    with pytest.raises(ValueError, match="1"):
        run(1, train)


# ---- start, look, stop ----------------------------------------------------------------------------------------------


def test_start_status_pull_stop_results(seed: int | None) -> None:
    at_three = threading.Event()

    def train(client: ps.Client) -> int:
        client.register({"w": np.zeros(3, np.float32)})
        while not client.should_stop:
            client.push({"w": np.ones(3, np.float32)})
            client.log(loss=1.5, step=client.clock)
            client.tick()
            client.pull()
            if client.clock >= 3:
                at_three.set()
        return client.clock

    with cluster(seed, optimizer="sgd:lr=1") as one:
        one.start(train)
        assert at_three.wait(DEADLINE_S)
        status = one.status()
        assert [worker["state"] for worker in status["workers"]] == ["running", "running"]
        assert status["stopped"] is None and status["servers"][0]["version"] >= 3
        values = one.pull()["w"]
        assert values[0] <= -3 and (values == values[0]).all()  # of one version, whatever it is
        page = one._repr_html_()
        assert "loss=1.5" in page and "running" in page and "worker 1" in page and "server 0" in page
        one.stop("enough")
        clocks = one.results(timeout=DEADLINE_S)
        assert min(clocks) >= 3 and one.status()["stopped"] == "enough"
        assert one.pull(["w"])["w"][0] <= values[0]
        assert {peer for peer, _ in one.metrics()} == {"server:0", "worker:0", "worker:1"}


def test_pull_right_after_start_waits_for_the_values(seed: int | None) -> None:
    with cluster(seed) as one:
        one.start(steps(2))
        assert one.pull(["w"])["w"].shape == (3, 4)
        one.results(timeout=DEADLINE_S)


def test_pull_when_nothing_was_registered_says_so(seed: int | None) -> None:
    with cluster(seed) as one:
        one.run(lambda client: None, timeout=DEADLINE_S)
        with pytest.raises(ps.StoppedError, match=r"no worker has registered parameters.*all workers are done"):
            one.pull()


def test_looking_at_a_seeded_run_does_not_change_it() -> None:
    half, go_on = threading.Event(), threading.Event()

    def pause(client: ps.Client, _: Any) -> None:
        if client.clock == 5 and client.rank == 0:
            half.set()
            assert go_on.wait(DEADLINE_S)

    def checksum(look: bool) -> str:
        half.clear()
        go_on.clear()
        with cluster(3, consistency="async", workers=3) as one:
            one.start(steps(10, pause))
            assert half.wait(DEADLINE_S)
            if look:
                looking = threading.Thread(target=lambda: (one.pull(), one.status(), one.pull(["b"])))
                looking.start()
                go_on.set()
                looking.join(DEADLINE_S)
            go_on.set()
            one.results(timeout=DEADLINE_S)
            return one.checksum()

    assert checksum(look=True) == checksum(look=False)


def test_stop_before_start_ends_the_run(seed: int | None) -> None:
    with cluster(seed) as one:
        one.stop("changed my mind")
        with pytest.raises(ps.StoppedError, match="changed my mind"):
            one.run(until_stopped, timeout=DEADLINE_S)


def test_page_before_the_run_and_after_a_failure(seed: int | None) -> None:
    def train(client: ps.Client) -> None:
        client.log(**{"<script>": 1.0})
        raise ValueError("<b>")

    with cluster(seed) as one:
        assert "not started" in one._repr_html_()
        with pytest.raises(ValueError, match="<b>"):
            one.run(train, timeout=DEADLINE_S)
        page = one._repr_html_()
        assert "failed at clock 0" in page and "Traceback" not in page
        assert "<script>" not in page and "&lt;script&gt;=1" in page


def test_one_cluster_runs_one_job(seed: int | None) -> None:
    with cluster(seed) as one:
        assert one.run(lambda client: client.rank, timeout=DEADLINE_S) == [0, 1]
        with pytest.raises(ps.ConfigError, match="it has run its one job already; make a new cluster"):
            one.run(lambda client: client.rank)
        assert one.results() == [0, 1]


def test_works_inside_a_running_event_loop(seed: int | None) -> None:
    async def main() -> list[Any]:
        return run(seed, steps(3))

    first, second = asyncio.run(main())
    assert_equal(first, second)


def test_two_clusters_at_once(seed: int | None) -> None:
    with cluster(seed) as one, cluster(seed, consistency="async", servers=2) as two:
        one.start(steps(8))
        two.start(steps(8))
        assert_equal(*two.results(timeout=DEADLINE_S))
        assert_equal(*one.results(timeout=DEADLINE_S))
        assert one.checksum() != two.checksum()


# ---- repeatable -----------------------------------------------------------------------------------------------------


def checksum(seed: int | None, **options: Any) -> str:
    with cluster(seed, **{"servers": 2, "workers": 3, "optimizer": "momentum:lr=0.1,decay=0.9", **options}) as one:
        one.run(steps(12), timeout=DEADLINE_S)
        return one.checksum()


@pytest.mark.parametrize("model_name", MODELS)
def test_same_seed_same_run(model_name: str) -> None:
    assert checksum(5, consistency=model_name) == checksum(5, consistency=model_name)


def test_another_seed_is_another_run_where_order_matters() -> None:
    assert checksum(5, consistency="async") != checksum(6, consistency="async")


def test_bsp_is_the_same_in_threads_and_in_virtual_time_whatever_the_seed_and_servers() -> None:
    assert len({checksum(seed) for seed in (None, 5, 6)}) == 1
