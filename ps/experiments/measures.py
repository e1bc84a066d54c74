"""What one run comes to: its curve, its last and best value, what the target took, where its time went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ps.experiments.files import Best, Report
from ps.experiments.results import Points, Run
from ps.experiments.statistics import Curve, Floats
from ps.launch.figures import MB
from ps.launch.rules import EPOCH
from ps.metrics import Histogram, Snapshot, merge, series

COSTS = ("seconds", "mb", "commits")


def averaged(points: Points) -> Floats:
    """Of rows of one metric: at each row the mean of what each rank has logged last, among those that log it; NaN as
    long as one of them has not yet. With one rank, its values."""
    ranks, column_N = np.unique(points.rank, return_inverse=True)
    latest_R = np.full(len(ranks), np.nan)
    mean_N = np.empty(len(points.value))
    for place, column in enumerate(column_N):
        latest_R[column] = points.value[place]
        mean_N[place] = latest_R.mean()
    return mean_N


def cost(points: Points, name: str) -> Floats:
    """One of COSTS at each row: seconds, MB pushed and pulled by all workers, commits of a slice."""
    return points.pushed_mb + points.pulled_mb if name == "mb" else np.asarray(getattr(points, name))


def curve(points: Points, over: str) -> Curve:
    """The metric over one of COSTS: finite ones only, the last one where several share a place."""
    value_N, x_N = averaged(points), cost(points, over)
    keep_N = np.isfinite(value_N) & np.isfinite(x_N)
    value_N, x_N = value_N[keep_N], np.maximum.accumulate(x_N[keep_N])
    last_N = np.append(x_N[1:] > x_N[:-1], True) if len(x_N) else np.zeros(0, np.bool_)
    return x_N[last_N], value_N[last_N]


@dataclass(frozen=True)
class Measured:
    """Of one run. None: it did not come to that. NaN: it diverged."""

    final: float | None  # the last value of the curve
    best: float | None
    reached: dict[str, float] | None  # by COSTS, when any rank first logged a value as good as the target
    least: dict[str, float]  # what one step takes, in seconds and mb: the costs that are compared
    step_s: float  # seconds per step of a worker: workers / steps_per_s
    steps_per_s: float  # of all workers together
    moved_gb: float  # pushed and pulled by all workers; NaN where nobody counted
    epoch_s: float | None  # the mean over workers


def measure(run: Run, report: Report) -> Measured:
    """What the report says of a run."""
    points = None if run.points is None else run.points.of(report.metric)
    speed = steps_per_s(run)
    value_N = np.zeros(0) if points is None else averaged(points)
    finite_N = value_N[np.isfinite(value_N)]
    best = np.max if report.best == "max" else np.min
    final = float(value_N[-1]) if len(value_N) else None
    step_s, moved_gb = len(run.outcome.clocks) / speed, _moved_gb(run)
    return Measured(
        final=np.nan if report.metric in run.nonfinite else final,
        best=float(best(finite_N)) if len(finite_N) else None,
        reached=None if points is None or report.target is None else _reached(points, report.best, report.target),
        least=_of_a_step(run, step_s, moved_gb),
        step_s=step_s,
        steps_per_s=speed,
        moved_gb=moved_gb,
        epoch_s=None if run.points is None else _epoch_s(run.points.of(EPOCH)),
    )


def _moved_gb(run: Run) -> float:
    """The larger of what workers have counted at last, and of what had been told when the last value was logged: the
    first lacks what workers had moved before they were restarted, the second what came after."""
    workers = [snapshot for peer, snapshot in run.peers.items() if peer.startswith("worker:")]
    counted = [
        one.total("push_bytes", direction="sent") + one.total("pull_bytes", direction="received") for one in workers
    ]
    told = np.zeros(0) if run.points is None else cost(run.points, "mb")
    found = [*([sum(counted) / 1e9] if counted else []), *(told[np.isfinite(told)] / 1e3)]
    return max(found, default=np.nan)


def steps_per_s(run: Run) -> float:
    """Of all workers together; NaN where nobody has told. Each worker's is its steps / their seconds from tick to tick,
    so without the start of processes and their end; of ranks, their clocks from the first row to the last."""
    measured = [run.peers[f"worker:{rank}"] for rank in range(len(run.outcome.clocks)) if f"worker:{rank}" in run.peers]
    pairs = [(steps(snapshot), total_s(snapshot, "loop")) for snapshot in measured]
    if run.points is not None and not any(seconds for _, seconds in pairs):
        own_RN = [run.points.rank == rank for rank in np.unique(run.points.rank) if rank >= 0]
        pairs = [(int(np.ptp(run.points.clock[own_N])), float(np.ptp(run.points.seconds[own_N]))) for own_N in own_RN]
    rates = [clocks / seconds for clocks, seconds in pairs if clocks and seconds]
    # one that has told nothing, as ranks that log nothing, is as fast as the others
    return len(run.outcome.clocks) * float(np.mean(rates)) if rates else np.nan


def _reached(points: Points, best: Best, target: float) -> dict[str, float] | None:
    there_N = points.value >= target if best == "max" else points.value <= target
    if not there_N.any():
        return None
    first = int(np.argmax(there_N))
    return {name: float(cost(points, name)[first]) for name in COSTS}


def _of_a_step(run: Run, step_s: float, moved_gb: float) -> dict[str, float]:
    """Seconds, of the whole run where it has not told those of its steps, as one that ended in its first clock; MB."""
    clocks = run.outcome.clocks
    seconds = run.outcome.seconds / max([*clocks, 1]) if np.isnan(step_s) else step_s
    return {"seconds": seconds, "mb": moved_gb * 1e3 / max(sum(clocks), 1)}


def _epoch_s(points: Points) -> float | None:
    """The mean over ranks of (time between its first and last logged epoch) / (epochs in between)."""
    per_rank = []
    for rank in np.unique(points.rank):
        mine_N = points.rank == rank
        seconds, epochs = (float(np.ptp(column[mine_N])) for column in (points.seconds, points.value))
        if epochs > 0:
            per_rank.append(seconds / epochs)
    return float(np.mean(per_rank)) if per_rank else None


@dataclass(frozen=True)
class Spent:
    """Seconds of one worker's step, on average: what it computed, how long a server kept its pull waiting for another
    worker, and the rest: wire, encoding, applying."""

    compute_s: float
    gate_s: float
    rest_s: float


def spent(run: Run) -> dict[int, Spent]:
    """By rank, of workers that measured and stepped. The gates of several servers keep a pull waiting at once: the
    longest counts, and no more than the worker itself has waited."""
    found: dict[int, Spent] = {}
    gates = [_gate_s(snapshot) for peer, snapshot in run.peers.items() if peer.startswith("server:")]
    for rank in range(len(run.outcome.clocks)):
        snapshot = run.peers.get(f"worker:{rank}")
        if snapshot is None or not steps(snapshot):
            continue
        step_s = total_s(snapshot, "loop") / steps(snapshot)  # of its last life, as all that it has measured
        clocks = steps(snapshot) + 1  # with the first, which no step is
        compute_s = total_s(snapshot, "compute") / clocks
        gate_s = max(
            (sum(s for other, s in gate.get(rank, {}).items() if other != rank) for gate in gates), default=0.0
        )
        gate_s = min(gate_s, total_s(snapshot, "wait")) / clocks
        found[rank] = Spent(compute_s, gate_s, max(0.0, step_s - compute_s - gate_s))
    return found


def waited_for(run: Run) -> dict[int, dict[int, float]]:
    """Seconds by who waited and for whom (itself: its own push was being applied; -1: others than workers): the mean
    over servers, whose waits go on at once."""
    gates = [_gate_s(snapshot) for peer, snapshot in run.peers.items() if peer.startswith("server:")]
    found: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for gate in gates:
        for worker, others in gate.items():
            for other, seconds in others.items():
                found[worker][other] += seconds / len(gates)
    return {worker: dict(others) for worker, others in found.items()}


def _gate_s(server: Snapshot) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for (name, labels), histogram in server.histograms.items():
        whose = dict(labels)
        if name == "gate_wait" and whose.get("worker", "").isdecimal() and "waited_for" in whose:
            other = whose["waited_for"]
            found[int(whose["worker"])][int(other) if other.isdecimal() else -1] = histogram.sum
    return found


def steps(worker: Snapshot) -> int:
    """That a worker has measured, from tick to tick."""
    return sum(histogram.n for (name, _), histogram in worker.histograms.items() if name == "loop")


def total_s(snapshot: Snapshot, name: str) -> float:
    """The sum of a histogram, over all labels."""
    return sum(histogram.sum for (other, _), histogram in snapshot.histograms.items() if other == name)


def staleness(runs: Iterable[Run]) -> Histogram | None:
    """Of all commits of all servers in these runs."""
    servers = merge(snapshot for run in runs for snapshot in run.peers.values())
    return servers.histograms.get(series("staleness"))


def network_mb(snapshot: Snapshot, direction: str) -> float:
    """What a process has sent or received, headers too."""
    names = ("push_bytes", "pull_bytes", "header_bytes")
    return sum(snapshot.total(name, direction=direction) for name in names) / MB
