"""Peak resident memory of a whole cluster in one process, held against the formula of docs/memory.md.

Each run has an interpreter of its own: the peak is VmHWM at its end minus what was resident before the cluster was made
(Linux only). A peak above the formula plus SLACK fails the benchmark, so that waste cannot creep in. The time is that
of the whole interpreter and means little; `python -m benchmarks.bench_memory` prints the bytes.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ps
from benchmarks.harness import FOLDER, REPEATS_FULL, Bench, BenchError, Function
from ps.config import RunConfig
from ps.types import Array

MB = 1 << 20
SLACK = 64 * MB  # scratch blocks, buffers of one slice, thread stacks, objects of Python, holes in the heap
PARAMETERS = 10
STEPS = 4  # the peak is reached in the second: there are old values while new ones are pulled


@dataclass(frozen=True)
class Case:
    """One run. reuse: pulls fill the arrays of the last pull. pulls: once a clock, else only in the first."""

    consistency: str
    workers: int = 1
    optimizer: str = "sgd:lr=0.125"
    reuse: bool = False
    pulls: bool = True

    def peak(self, model: int) -> int:
        """The formula: bytes for a model of so many bytes."""
        config = RunConfig.check({"consistency": self.consistency, "optimizer": self.optimizer})
        users = 2 + (not self.reuse)  # gradients; values; the values before them, until the new ones are there
        frames = 1 if self.pulls else config.inflight_clocks
        server = 1 + len(config.rule().state)
        held = self.workers - 1 if self.consistency == "async" else 0  # replies on their way while a push commits
        return model * (self.workers * (users + frames) + server + held)


CASES = {
    "bsp_1": Case("bsp"),
    "bsp_1_adam": Case("bsp", optimizer="adam:lr=0.125", reuse=True),
    "bsp_2": Case("bsp", workers=2),
    "async_1": Case("async"),
    "async_1_unpulled": Case("async", reuse=True, pulls=False),
    "async_2": Case("async", workers=2),
}


def run(name: str, megabytes: int) -> dict[str, Any]:
    """{peak, checksum} of a case in an interpreter of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_memory", name, str(megabytes)]
    done = subprocess.run(command, cwd=FOLDER.parent, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def peak_of(name: str) -> Function:
    """Runs a case and fails when it takes more than the formula says."""

    def bench_peak(bench: Bench) -> None:
        case, megabytes = CASES[name], bench.size(smoke=1, full=200)
        with bench.timed(bytes_moved=case.workers * STEPS * (1 + case.pulls) * megabytes * MB):
            report = run(name, megabytes)
        allowed = case.peak(megabytes * MB) + SLACK
        if report["peak"] > allowed:
            raise BenchError(f"{name}: expected a peak of at most {allowed} bytes, got {report['peak']}")
        bench.check(int(report["checksum"], 16))

    return bench_peak


bench_bsp_1 = peak_of("bsp_1")
bench_bsp_1_adam = peak_of("bsp_1_adam")
bench_bsp_2 = peak_of("bsp_2")
bench_async_1 = peak_of("async_1")
bench_async_1_unpulled = peak_of("async_1_unpulled")
bench_async_2 = peak_of("async_2")


# ---- inside the interpreter of a run --------------------------------------------------------------------------------


def resident(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def train_and_measure(case: Case, megabytes: int) -> dict[str, Any]:
    """Runs the steps of a case. Numbers are sums of few powers of two, so the order of arrival changes no bit."""
    before = resident("VmRSS")

    def filled(value: float) -> dict[str, Array]:
        elements = megabytes * MB // 4 // PARAMETERS
        return {f"w{i}": np.full(elements, value, np.float32) for i in range(PARAMETERS)}

    def train(client: ps.Client) -> None:
        params = client.register(filled(0.5))
        grads = filled(0.25)
        for step in range(STEPS):
            if case.pulls or step == 0:
                params = client.pull(out=params if case.reuse else None)
            client.push(grads)
            client.tick()
        client.barrier()

    with ps.LocalCluster(workers=case.workers, consistency=case.consistency, optimizer=case.optimizer) as cluster:
        cluster.run(train)
        peak = resident("VmHWM") - before  # the checksum below copies everything
        return {"peak": peak, "checksum": cluster.checksum()}


def main(arguments: list[str]) -> int:
    """With a case and its megabytes: runs it here. Without: all cases, seven times, as a table."""
    if arguments:
        case = CASES[arguments[0]]
        train_and_measure(case, 1)  # what is loaded and started once is not the model's
        gc.collect()
        print(json.dumps(train_and_measure(case, int(arguments[1]))))
        return 0
    megabytes = 200
    print(f"{megabytes} MB of float32\ncase                formula MB  median MB  min MB  max MB  median/formula")
    for name, case in CASES.items():
        formula = case.peak(megabytes * MB) / MB
        peaks = [run(name, megabytes)["peak"] / MB for _ in range(REPEATS_FULL)]
        median = statistics.median(peaks)
        spread = f"{median:>11.0f}{min(peaks):>8.0f}{max(peaks):>8.0f}"
        print(f"{name:<20}{formula:>10.0f}{spread}{median / formula:>16.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
