"""`ps/...`: what peers have measured becomes values of workers and of the run."""

from __future__ import annotations

from typing import Any

import pytest

from ps.launch.figures import FIGURES_S, Figures
from ps.launch.rules import RUN
from ps.metrics import Metrics


def status(clocks: list[int], metrics: dict[str, Any], state: str = "running") -> dict[str, Any]:
    workers = [{"rank": rank, "state": state, "clock": clock} for rank, clock in enumerate(clocks)]
    return {"workers": workers, "servers": [{"shard": 0}, {"shard": 1}], "metrics": metrics}


def worker(pushed: int, pulled: int, waits: list[float], lr: float) -> dict[str, Any]:
    metrics = Metrics()
    metrics.count("push_bytes", pushed, direction="sent")
    metrics.count("pull_bytes", pulled, direction="received")
    for seconds in waits:
        metrics.observe("wait", seconds)
    metrics.gauge("lr", lr)
    return metrics.snapshot().to_dict()


def server(*staleness: int) -> dict[str, Any]:
    metrics = Metrics()
    metrics.gauge("slices", 2)
    metrics.count("applies", len(staleness))
    for versions in staleness:
        metrics.observe("staleness", versions)
    return metrics.snapshot().to_dict()


def test_figures_of_workers_and_of_the_run() -> None:
    metrics = {
        "worker:0": worker(2_000_000, 500_000, [0.5, 0.25], 0.125),
        "worker:1": worker(1_000_000, 250_000, [], float("nan")),  # what is not finite goes nowhere
        "server:0": server(*[0] * 19),
        "server:1": server(4),
    }
    figures = Figures()
    first = figures.reports(status([0, 0], metrics), 1.0)
    assert figures.reports(status([9, 9], metrics), 1.0 + 0.9 * FIGURES_S) == []
    found = figures.reports(status([10, 20], metrics), 1.0 + 2 * FIGURES_S)
    assert {(r.rank, r.clock, r.name): r.value for r in found} == {
        (0, 10, "ps/pushed_mb"): 2.0,
        (0, 10, "ps/pulled_mb"): 0.5,
        (0, 10, "ps/waited_s"): 0.75,
        (0, 10, "ps/lr"): 0.125,
        (0, 10, "ps/clocks_per_s"): 1.0,
        (1, 20, "ps/pushed_mb"): 1.0,
        (1, 20, "ps/pulled_mb"): 0.25,
        (1, 20, "ps/waited_s"): 0.0,
        (1, 20, "ps/clocks_per_s"): 2.0,
        (RUN, 10, "ps/commits"): 20 / 4,
        (RUN, 10, "ps/staleness_mean"): 0.2,
        (RUN, 10, "ps/staleness_p95"): 0.0,
        (RUN, 10, "ps/staleness_max"): 4.0,
    }
    assert {r.name for r in found} - {r.name for r in first} == {"ps/clocks_per_s"}  # it takes two looks


def test_at_the_end_workers_that_are_done_are_told_of_once_more() -> None:
    figures, metrics = Figures(), {"worker:0": worker(8, 8, [], 0.1)}
    assert figures.reports(status([5], metrics, "done"), 0.0) == []
    assert {r.name for r in figures.reports(status([5], metrics, "done"), 0.1, now=True)} >= {"ps/pushed_mb", "ps/lr"}


def test_no_speed_after_a_restart_and_after_the_end() -> None:
    figures = Figures()

    def speeds(seconds: float, clock: int, state: str = "running", now: bool = False) -> list[float]:
        found = figures.reports(status([clock], {}, state), seconds, now)
        return [report.value for report in found if report.name == "ps/clocks_per_s"]

    assert [speeds(0.0, 0), speeds(5.0, 50)] == [[], [10.0]]
    assert [speeds(10.0, 20), speeds(15.0, 30)] == [[], [2.0]], "it began anew at an earlier clock"
    assert speeds(20.0, 30) == [0.0], "it stands still"
    assert speeds(25.0, 40, "done") == []
    assert speeds(26.0, 40, "done", now=True) == [], "it was done before the report before"
    figures = Figures()
    assert [speeds(0.0, 0), speeds(2.0, 8, "done", now=True)] == [[], [4.0]], "it ended since"


@pytest.mark.parametrize(
    "bad",
    [
        [],
        {"counters": 3},
        {**worker(1, 1, [], 0.1), "counters": [["push_bytes", {"direction": "sent"}, 10**400]]},
        {**server(1), "histograms": [["staleness", {}, [10**400, 1.0, 0.0, 0.0, [[0, 10**400]]]]]},
    ],
)
@pytest.mark.parametrize("peer", ["worker:0", "server:0"])
def test_a_peer_that_tells_nonsense_has_no_figures(peer: str, bad: Any) -> None:
    found = Figures().reports(status([5], {peer: bad}), 0.0)
    assert not {r.name for r in found} & {"ps/pushed_mb", "ps/staleness_mean"}
