"""The oracles of the core over real processes: BSP to the bit, SSP's and async's promises on what was read."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ps
from tests.integration.processes.helpers import Stage, assert_bytes_equal, status
from tests.integration.processes.problems import SEED, bsp_problem, total

MOMENTUM, ADAM = "momentum:lr=0.1,decay=0.8", "adam:lr=0.03"


@cache
def in_one_process(workers: int, optimizer: str) -> list[dict[str, Any]]:
    """What worker 0 reads of the BSP problem under LocalCluster; BSP: all workers read the same."""
    with ps.LocalCluster(2, workers, optimizer=optimizer, seed=SEED) as cluster:
        reads: list[dict[str, Any]] = cluster.run(bsp_problem(workers).train, timeout=60.0)[0]
    return reads


@pytest.mark.parametrize(("workers", "servers", "optimizer"), [(2, 3, MOMENTUM), (4, 1, ADAM)])
def test_bsp_over_processes_equals_one_process_bit_for_bit(
    stage: Stage, workers: int, servers: int, optimizer: str
) -> None:
    """Every read of every worker, of parameters in one part and in several."""
    run = stage.psctl("bsp.py", workers, workers=workers, servers=servers, optimizer=optimizer, seed=SEED)
    expected = in_one_process(workers, optimizer)
    digests = [hashlib.sha256(b"".join(v[n].tobytes() for n in sorted(v))).hexdigest() for v in expected]
    code, _, err = run.wait()
    assert code == 0, err
    for rank in range(workers):
        values = stage.result(f"worker-{rank}")
        assert values.pop("digests").tolist() == digests, f"worker {rank}"
        assert_bytes_equal(values, expected[-1])


@pytest.mark.parametrize(("consistency", "lead"), [("bsp", 0), ("ssp:staleness=2", 2), ("async", 100)])
def test_a_reader_is_at_most_as_far_ahead_as_the_model_says(stage: Stage, consistency: str, lead: int) -> None:
    """Worker 0 is held at clock 1 until worker 1 asks for the first values it may not have (or, under async, is through
    them all): the whole lead is used, and never more. Each push is added exactly once.
    """
    clocks, held = 6, 1
    stage.gate("0")
    run = stage.psctl(
        "sums.py", clocks, f"0:{held}:before", workers=2, servers=2, consistency=consistency, optimizer="add"
    )
    stage.sign("0 reads 1", run)
    first_refused = held + lead + 1
    stage.sign("1 through" if first_refused >= clocks else f"1 reads {first_refused}", run)
    stage.open_gate("0")
    code, _, err = run.wait()
    assert code == 0, err
    leads = []
    for rank in range(2):
        seen = stage.result(f"seen-{rank}")["seen"]
        clock, min_clock, versions = seen[:, 0], seen[:, 1], seen[:, 2:]
        assert clock.tolist() == list(range(clocks))
        assert (np.diff(min_clock) >= 0).all() and (np.diff(versions, axis=0) >= 0).all(), "steps back"
        leads.append(int((clock - min_clock).max()))
    assert leads[1] == min(lead, clocks - 1 - held) and leads[0] <= lead, leads
    assert_bytes_equal(stage.result("sum"), total({0: clocks, 1: clocks}))


def test_a_server_beside_each_worker_ends_on_the_same_bytes(stage: Stage) -> None:
    """--servers colocated: as many shards as workers, reached without a port; else the same run as --servers 3."""
    stage.gate("1")
    run = stage.psctl("bsp.py", 3, 1, 2, workers=3, servers="colocated", optimizer=MOMENTUM, seed=SEED)
    pid = int(stage.sign("held 1", run)[0])
    controller = dict(line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if line)
    servers = status(controller["PS_CONTROLLER"])["servers"]
    stage.open_gate("1")
    assert [server["address"] for server in servers] == [f"ipc://@ps-{controller['PS_JOB']}-{n}" for n in range(3)]
    expected = in_one_process(3, MOMENTUM)[-1]
    code, _, err = run.wait()
    assert code == 0 and "ps: 3 servers, 3 workers, bsp" in err, err
    for rank in range(3):
        values = stage.result(f"worker-{rank}")
        del values["digests"]
        assert_bytes_equal(values, expected)
