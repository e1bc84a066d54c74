"""`psctl run --record` on real processes, and what `psctl replay` makes of it."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.integration.processes.helpers import Ended, Stage, descendants, environment, is_server
from tests.integration.processes.problems import CLOCKS
from tests.integration.processes.test_models import MOMENTUM

EQUAL = re.compile(
    r"server (\d): \d+ records, (\d+) commits in [\d.]+ s; checksum recorded (\w{8}), replayed (\w{8}): equal"
)


@pytest.fixture
def tape(stage: Stage) -> Path:
    return stage.folder / "tape"


def replay(stage: Stage, tape: Path, *flags: object) -> Ended:
    """By the NumPy twins, as on a machine without a compiler: servers use native kernels where there are some."""
    argv = [sys.executable, "-m", "ps.cli.main", "replay", tape, *flags]
    return stage.start("replay", argv, environment(PS_KERNELS="twin")).wait()


@pytest.mark.parametrize("compression", ["none", "onebit"])
def test_a_run_with_a_restarted_worker_is_replayed_to_its_bytes(stage: Stage, tape: Path, compression: str) -> None:
    """Asynchronous, with momentum, on two servers: nothing but the recording knows the order."""
    stage.gate("1")
    flags = dict(workers=2, servers=2, consistency="async", optimizer=MOMENTUM, compression=compression, max_restarts=1)
    saved = stage.folder / "run.safetensors"
    run = stage.psctl("sums.py", CLOCKS, "1:2:before", **flags, record=tape, save=saved)
    os.kill(int(stage.sign("held 1", run)[0]), signal.SIGKILL)
    code, _, err = run.wait()
    assert code == 0 and "restart 1 of 1" in err, err
    again = stage.folder / "again.safetensors"
    code, out, err = replay(stage, tape, "--save", again)
    assert (code, err) == (0, ""), out
    servers = EQUAL.findall(out)
    assert [shard for shard, *_ in servers] == ["0", "1"]
    assert sum(int(commits) for _, commits, *_ in servers) == 2 * CLOCKS * 4, "each clock of each worker, on each slice"
    expected = load_file(saved)
    for name, value in load_file(again).items():
        np.testing.assert_array_equal(value, expected.pop(name))
    assert not expected


def test_a_killed_server_leaves_what_it_had(stage: Stage, tape: Path) -> None:
    stage.gate("1")
    run = stage.psctl("sums.py", CLOCKS, "1:2:before", workers=2, servers=1, consistency="async", record=tape)
    stage.sign("held 1", run)
    stage.sign("0 through", run)
    (server,) = [pid for pid in descendants(run.pid) if is_server(pid)]
    os.kill(server, signal.SIGKILL)
    assert run.wait().code == 128 + signal.SIGKILL
    code, out, err = replay(stage, tape)
    assert (code, err) == (0, ""), out
    assert re.search(r"server 0: .* commits in .*; ends at record \d+; the rest is missing", out), out


def test_a_full_disk_is_one_warning_and_the_run_goes_on(stage: Stage, tape: Path) -> None:
    """No file of these processes may grow beyond 1 MiB: a write then fails like one to a full disk."""
    script = stage.folder / "train.py"
    script.write_text(
        "import ps, numpy as np\n"
        "with ps.connect() as client:\n"
        "    client.register({'w': np.zeros(1 << 16, np.float32)})\n"
        "    for _ in range(8):\n"
        "        client.pull(), client.push({'w': np.ones(1 << 16, np.float32)}), client.tick()\n"
        "    print('sum', float(client.pull()['w'].sum()))\n"
    )
    limited = ["bash", "-c", 'ulimit -f 1024; exec "$@"', "limited", sys.executable, "-m", "ps.cli.main", "run"]
    command = [*limited, "--timeout-s", 20, "--optimizer", "add", "--record", tape, script]
    code, out, err = stage.start("run", command, environment()).wait()
    assert code == 0 and f"sum {8.0 * (1 << 16)}" in out, err
    assert out.count("File too large; training goes on") == 1 and out.count("the recording") == 1, out
    code, out, err = replay(stage, tape)
    assert code == 0 and "2 commits in" in out and "the rest is missing" in out, out + err


def test_an_existing_folder_is_refused_before_anything_starts(stage: Stage, tape: Path) -> None:
    tape.mkdir()
    (tape / "server-0.record").write_text("mine")
    code, out, err = stage.psctl("sums.py", 1, record=tape).wait()
    assert (code, out) == (2, "")
    assert err == (
        f"psctl run: --record: expected a folder that does not exist yet, got '{tape}'; nothing is overwritten\n"
    )
    assert (tape / "server-0.record").read_text() == "mine"
