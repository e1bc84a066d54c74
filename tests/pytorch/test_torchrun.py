"""`psctl worker -- torchrun`: groups of real processes in a cluster of real processes, on loopback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.integration.processes.helpers import descendants, wait_ended
from tests.pytorch.models import distance
from tests.pytorch.test_groups import TORCHRUN, reference
from tests.unit.launch.test_daemons import DEADLINE_S, Place, end, words

SCRIPT = Path(__file__).with_name("group_script.py")
WAITS = """
import os, signal
import ps

client = ps.connect() if os.environ["RANK"] == "0" else None
print("rank", os.environ["RANK"], "is there", flush=True)
signal.pause()
"""


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GLOO_SOCKET_IFNAME": "lo"}
    yield place
    for process in place.started:
        for pid in [*descendants(process.pid), process.pid] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def worker_of(at: Place, *script: object) -> list[str]:
    torchrun = ["torchrun", "--standalone", "--nproc-per-node", "2", *map(str, script)]
    return ["worker", "--controller", at.address, "--", *torchrun]


def test_two_workers_of_two_ranks_equal_the_flat_reference(at: Place) -> None:
    controller = at.controller("--workers", "2", "--timeout-s", "30")
    server = at.server()
    workers = [at.psctl(*worker_of(at, SCRIPT, at.folder)) for _ in range(2)]
    for process in (*workers, controller, server):
        code, out = end(process)
        assert code == 0, out
    expected = reference(TORCHRUN)
    values = [torch.load(at.folder / f"{index}.pt") for index in range(4)]
    assert all(torch.equal(values[0], other) for other in values)
    assert distance(values[0], expected) < 1e-12


def test_a_signal_ends_all_ranks(at: Place) -> None:
    controller = at.controller("--timeout-s", "30")
    server = at.server()
    (at.folder / "waits.py").write_text(WAITS)
    worker = at.psctl(*worker_of(at, "waits.py"))
    for _ in range(2):
        words(worker, "(is there)")
    ranks = descendants(worker.pid)
    assert len(ranks) >= 2
    worker.send_signal(signal.SIGTERM)
    code, out = end(worker)
    assert (code == 1 and "SIGTERM" in out) or code == -signal.SIGTERM, (code, out)
    assert wait_ended(ranks, DEADLINE_S) == []
    assert end(controller)[0] == 1 and end(server)[0] == 1
