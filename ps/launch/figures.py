"""Our own figures of a run, `ps/...`, from what servers and workers have told the controller of themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ps.errors import FrameError
from ps.launch.rules import RUN, Report
from ps.metrics import Snapshot, merge, series
from ps.types import server_peer, worker_peer

FIGURES_S = 5.0  # between two reports, unless it is said otherwise
MB = 1e6


class Figures:
    """Of each worker, from its start: MB pushed and pulled as they travelled, seconds that its loop has waited, the
    learning rate at its last pull, and clocks per second since the report before. Of the run, over all servers since
    the start: commits of a slice, on average, and their staleness, mean, 95th percentile and largest.
    """

    def __init__(self, every_s: float = FIGURES_S) -> None:
        self._every_s, self._due = every_s, 0.0
        self._before: dict[int, tuple[float, int]] = {}  # rank -> seconds and clock of the report before

    def reports(self, status: Mapping[str, Any], seconds: float, now: bool = False) -> list[Report]:
        """Those that are due, or `now`. status: as `ControlServer.status` gives it."""
        if seconds < self._due and not now:
            return []
        self._due = seconds + self._every_s
        found: list[Report] = []
        for worker in status["workers"]:
            rank, clock, runs = worker["rank"], worker["clock"], worker["state"] == "running"
            speed = self._speed(rank, clock, runs, seconds)
            if now or runs:
                figures = _of_worker(_snapshot(status, worker_peer(rank))) | speed
                found += [Report(seconds, rank, clock, f"ps/{name}", value) for name, value in figures.items()]
        clock = min((worker["clock"] for worker in status["workers"]), default=0)
        servers = [_snapshot(status, server_peer(server["shard"])) for server in status["servers"]]
        figures = _of_servers(servers)
        found += [Report(seconds, RUN, clock, f"ps/{name}", value) for name, value in figures.items()]
        return [report for report in found if math.isfinite(report.value)]

    def _speed(self, rank: int, clock: int, runs: bool, seconds: float) -> dict[str, float]:
        """None of one that was at a later clock, before a restart, and of one that had ended at the report before."""
        before, self._before[rank] = self._before.get(rank), (seconds, clock)
        if before is None or seconds <= before[0] or clock < before[1] or (clock == before[1] and not runs):
            return {}
        return {"clocks_per_s": (clock - before[1]) / (seconds - before[0])}


def _of_worker(seen: Snapshot) -> dict[str, float]:
    if not seen.counters:
        return {}
    waits = seen.histograms.get(series("wait"))
    figures = {
        "pushed_mb": seen.total("push_bytes", direction="sent") / MB,
        "pulled_mb": seen.total("pull_bytes", direction="received") / MB,
        "waited_s": 0.0 if waits is None else waits.sum,
    }
    rate = seen.gauges.get(series("lr"))
    return figures if rate is None else {**figures, "lr": rate}


def _of_servers(servers: list[Snapshot]) -> dict[str, float]:
    seen, slices = merge(servers), sum(server.gauges.get(series("slices"), 0.0) for server in servers)
    staleness = seen.histograms.get(series("staleness"))
    if staleness is None:
        return {}
    commits = {"commits": seen.total("applies") / slices} if slices else {}
    mean, p95 = staleness.sum / staleness.n, staleness.percentile(95)
    return {**commits, "staleness_mean": mean, "staleness_p95": p95, "staleness_max": staleness.max}


def _snapshot(status: Mapping[str, Any], peer: str) -> Snapshot:
    """What this peer has told last; nothing where that does not hold: a peer's bytes never end the run."""
    try:
        return Snapshot.from_dict(status["metrics"].get(peer, Snapshot().to_dict()))
    except FrameError:
        return Snapshot()
