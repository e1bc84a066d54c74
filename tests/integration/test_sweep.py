"""`psctl sweep` in virtual time, as processes and beside ranks: what it writes, what it keeps, what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ps.stragglers import slowdowns

DEADLINE_S = 100.0
SCRIPT = """
import sys
import numpy as np
import ps

def main():
    with ps.connect() as client:
        w = np.zeros(600, np.float32)
        client.register({"w": w})
        while client.clock < int(sys.argv[1]):
            w = client.pull()["w"]
            client.push({"w": w - 1})
            client.tick()
            if client.rank == 0:
                client.log(loss=float(np.square(w - 1).mean()), val=-abs(client.lr - 0.2))

if __name__ == "__main__":
    main()
"""
FILE = """
name = "quadratic"
script = "train.py"
args = ["{clocks}"]
seeds = [1, 2]

[run]
workers = 2
compute_s = 0.5
optimizer = "sgd:lr=0.1"
stragglers = "persistent:factor=4"

[grid]
consistency = ["bsp", "async"]
clocks = [12]

[report]
metric = "loss"
best = "min"
"""


def sweep(folder: Path, text: str, *flags: str, script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(script)
    (folder / "e.toml").write_text(text)
    return subprocess.run(command(*flags), cwd=folder, capture_output=True, text=True, timeout=DEADLINE_S)


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "ps.cli.main", "sweep", "e.toml", "--out", "out", "--jobs", "2", *flags]


def real(world: str) -> str:
    text = FILE.replace("seeds = [1, 2]", f'seeds = [1]\nworld = "{world}"')
    return text.replace("compute_s = 0.5", "compute_s = 0.01")


def cells(folder: Path) -> dict[tuple[str, int, str], Path]:
    found = {}
    for path in (folder / "out" / "cells").glob("*/cell.json"):
        cell = json.loads(path.read_text())
        found[cell["arm"], cell["seed"], cell["phase"]] = path.parent
    return found


def outcome(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return read


def rows(folder: Path, metric: str) -> dict[str, list[Any]]:
    table = pq.read_table(folder / "points.parquet", filters=[("metric", "==", metric)])
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def test_a_grid_in_virtual_time(tmp_path: Path) -> None:
    done = sweep(tmp_path, FILE)
    assert done.returncode == 0, done.stderr
    found = cells(tmp_path)
    assert sorted(found) == [(arm, seed, "final") for arm in ("async", "bsp") for seed in (1, 2)]
    for (arm, seed, _), folder in found.items():
        loss = rows(folder, "loss")
        assert loss["clock"] == list(range(1, 13))
        assert set(loss["axis"]) == {"virtual"}
        assert set(loss["seed"]) == {seed}
        # Of 600 float32 values, each worker's pushes one by one: as far as clocks tell, which is up to a look of 0.2 s.
        assert loss["pushed_mb"] == sorted(loss["pushed_mb"])
        slow = slowdowns("persistent:factor=4", seed)
        step_s = 0.5 * max(slow.of(rank, 2, 0) for rank in range(2 if arm == "bsp" else 1))
        assert np.diff(loss["seconds"]) == pytest.approx(step_s, abs=0.01), "the slow one is waited for under bsp only"
        if arm == "bsp":  # the mean of both gradients: a factor of 0.9 a clock, from a start of 1
            assert loss["value"] == pytest.approx([0.9 ** (2 * clock) for clock in range(12)], rel=1e-5)
        ended = outcome(folder)
        assert ended["exit_code"] == 0
        assert ended["clocks"] == [12, 12]
        assert sorted(ended["peers"]) == ["server:0", "worker:0", "worker:1"]


def test_the_same_cells_end_in_the_same_bytes_and_are_not_run_twice(tmp_path: Path) -> None:
    assert sweep(tmp_path, FILE).returncode == 0
    first = {key: outcome(folder)["checksum"] for key, folder in cells(tmp_path).items()}
    assert len(set(first.values())) > 1
    logs = {key: (folder / "run.jsonl").read_bytes().splitlines()[1:] for key, folder in cells(tmp_path).items()}
    kept, again, *_ = cells(tmp_path).values()
    written = (kept / "outcome.json").stat().st_mtime_ns
    (again / "outcome.json").write_text('{"exit')  # cut off
    assert sweep(tmp_path, FILE).returncode == 0
    assert (kept / "outcome.json").stat().st_mtime_ns == written
    assert {key: outcome(folder)["checksum"] for key, folder in cells(tmp_path).items()} == first
    assert {
        key: (folder / "run.jsonl").read_bytes().splitlines()[1:] for key, folder in cells(tmp_path).items()
    } == logs


def test_tuning_takes_the_best_by_the_validation_metric(tmp_path: Path) -> None:
    tune = '[tune]\nmetric = "val"\nbest = "max"\nseeds = [9]\ngrid = {rate = [0.1, 0.2, 0.4]}\n'
    done = sweep(tmp_path, FILE.replace("sgd:lr=0.1", "sgd:lr={rate}") + tune)
    assert done.returncode == 0, done.stderr
    found = cells(tmp_path)
    assert len(found) == 2 * 1 + 2 * 2, "cells of the same arm, seed and phase share a key here"
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2 * 3 + 2 * 2
    for (_, seed, phase), folder in found.items():
        if phase == "final":
            assert seed in (1, 2)
            assert json.loads((folder / "cell.json").read_text())["tuned"] == {"rate": 0.2}


def test_arms_that_share_a_tuning_choose_alike_whichever_are_run(tmp_path: Path) -> None:
    tune = '[tune]\nmetric = "val"\nbest = "max"\nseeds = [9]\ngrid = {rate = [0.1, 0.2]}\nat = {clocks = 12}\n'
    text = FILE.replace("sgd:lr=0.1", "sgd:lr={rate}").replace("clocks = [12]", "clocks = [12, 13]") + tune
    assert sweep(tmp_path, text.replace("seeds = [1, 2]", "seeds = [1]"), "--only", "bsp*13").returncode == 0
    chosen = json.loads((tmp_path / "out" / "chosen.json").read_text())
    assert chosen == {"bsp, clocks=12": {"rate": 0.2}, "bsp, clocks=13": {"rate": 0.2}}
    assert sorted((arm, phase) for arm, _, phase in cells(tmp_path)) == [
        ("bsp, clocks=12", "tune"),
        ("bsp, clocks=13", "final"),
    ]


def test_a_cell_that_fails_costs_no_other(tmp_path: Path) -> None:
    script = SCRIPT.replace("    with ps", "    if sys.argv[1] == '13': raise ValueError('unlucky')\n    with ps")
    done = sweep(tmp_path, FILE.replace("clocks = [12]", "clocks = [12, 13]"), script=script)
    assert done.returncode == 1
    assert "bsp, clocks=13, seed 1: failed: " in done.stderr and "unlucky" in done.stderr
    assert "4 of 8 cells have failed" in done.stderr
    assert sum(outcome(folder)["exit_code"] == 0 for folder in cells(tmp_path).values()) == 4


def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    text = FILE.replace("seeds = [1, 2]", "seeds = [1, 2, 3, 4, 5]")
    sweep(tmp_path, text, "--check")
    running = subprocess.Popen(command(), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    assert "12 clocks" in running.stderr.readline()
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stderr.close()
    ended = list((tmp_path / "out" / "cells").glob("*/outcome.json"))
    assert 1 <= len(ended) < 10
    done = sweep(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "cells").glob("*/outcome.json"))) == 10


def test_ctrl_c_keeps_what_has_finished(tmp_path: Path) -> None:
    sweep(tmp_path, FILE, "--check")
    running = subprocess.Popen(command("--jobs", "1"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    assert "12 clocks" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    _, words = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 130
    assert "what has finished stays" in words


def test_faults_of_a_worker(tmp_path: Path) -> None:
    text = FILE.replace("seeds = [1, 2]", "seeds = [1]\nmax_restarts = 1").replace('"bsp", "async"', '"async"')
    text += '[[faults]]\nclock = 4\nkill = "worker:1"\n[[faults]]\nclock = 6\ncut = "worker:0"\nseconds = 3\n'
    done = sweep(tmp_path, text)
    assert done.returncode == 0, done.stderr
    [folder] = cells(tmp_path).values()
    assert outcome(folder)["restarts"] == {"1": 1}
    assert outcome(folder)["clocks"] == [12, 12]


def test_processes_and_ranks_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(
        "import json, os\nrank = int(os.environ['RANK'])\nassert os.environ['WORLD_SIZE'] == '2'\n"
        "with open(os.environ['PS_RUN_LOG'], 'a') as log:\n"
        "    for clock in range(1, 4):\n"
        "        row = {'time': clock / 2, 'rank': rank, 'clock': clock, 'name': 'loss', 'value': 1 / clock}\n"
        "        log.write(json.dumps(row) + '\\n')\n"
    )
    text = real("processes")
    text = text.replace('consistency = ["bsp", "async"]\n', "")
    text += '[[compare]]\nname = "ours"\n[[compare]]\nname = "theirs"\nlaunch = "ranks"\nscript = "ranks.py"\n'
    done = sweep(tmp_path, text, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    ours, theirs = (cells(tmp_path)[name, 1, "final"] for name in ("ours", "theirs"))
    loss = rows(ours, "loss")
    assert loss["value"] == pytest.approx([0.9 ** (2 * clock) for clock in range(12)], rel=1e-5)
    assert set(loss["axis"]) == {"emulated"} and loss["seconds"][0] >= 0
    assert {"server 0", "worker 0", "worker 1"} <= outcome(ours)["processes"].keys()
    assert all(used["peak_mb"] > 1 for used in outcome(ours)["processes"].values())
    assert sorted(rows(theirs, "loss")["seconds"]) == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert outcome(theirs)["clocks"] == [3, 3]


def test_processes_on_links_are_no_faster_than_their_bytes_and_learn_the_same(tmp_path: Path) -> None:
    """Under bsp a worker's pulls and pushes follow one another, and each takes its bytes over its rate."""
    clocks, values = 5, 20_000
    script = SCRIPT.replace("600", str(values)).replace("client.log(", "client.log(at=time.monotonic(), ")
    text = FILE.replace("seeds = [1, 2]", 'seeds = [1]\nworld = "processes"').replace("[12]", f"[{clocks}]")
    text = text.replace('consistency = ["bsp", "async"]\n', "").replace("compute_s = 0.5\n", "")
    text = text.replace('stragglers = "persistent:factor=4"\n', "")
    text += '[[compare]]\nname = "linked"\nrate_mbit = 10\n[[compare]]\nname = "free"\n'
    done = sweep(tmp_path, text, "--jobs", "1", script=script.replace("import sys", "import sys, time"))
    assert done.returncode == 0, done.stderr
    linked, free = (cells(tmp_path)[name, 1, "final"] for name in ("linked", "free"))
    assert (outcome(linked)["links"], outcome(free)["links"]) == ("token bucket", "none")
    loss = rows(linked, "loss")
    assert (set(loss["axis"]), set(rows(free, "loss")["axis"])) == ({"emulated"}, {"wall"})
    assert loss["value"] == rows(free, "loss")["value"] and len(loss["value"]) == clocks
    at = rows(linked, "at")["value"]
    carried = (clocks - 1) + (clocks - 2)  # pulls and pushes between the first and the last log of worker 0
    assert at[-1] - at[0] >= carried * 4 * values * 8 / 10e6


@pytest.mark.parametrize(
    ("flags", "text", "words"),
    [
        ([], FILE.replace("seeds", "sedes"), "e.toml: sedes: expected seeds"),
        ([], FILE.replace("bsp", "spp"), "spp: consistency: expected one of "),
        ([], FILE.replace('script = "train.py"', 'script = "no.py"'), "script: expected a Python file"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(tmp_path: Path, flags: list[str], text: str, words: str) -> None:
    done = sweep(tmp_path, text, *flags)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    done = sweep(tmp_path, FILE)
    assert done.returncode == 2
    assert "expected no files, or those of a sweep, got others" in done.stderr
    shutil.rmtree(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("netlab") is None, reason="needs root and the command netlab")
@pytest.mark.parametrize("servers", ["1", '"colocated"'])
def test_hosts_with_links(tmp_path: Path, servers: str) -> None:
    text = real("netlab").replace("[run]", f"[run]\nservers = {servers}")
    began = time.monotonic()
    text = text.replace('"bsp", "async"', '"bsp"') + "[links]\nrate_mbit = 100\n"
    cut = '[[faults]]\nclock = 2\ncut = "worker:1"\nseconds = 0.3\n'
    done = sweep(tmp_path, text + cut, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    [folder] = cells(tmp_path).values()
    assert (outcome(folder)["links"], outcome(folder)["reason"]) == ("netlab", "all workers are done")
    assert time.monotonic() - began < DEADLINE_S
