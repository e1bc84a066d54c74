"""One cell in a process of its own: `python -m ps.experiments.runner FOLDER`, where the sweep has put cell.json."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ps.config import RunConfig
from ps.control.service import ControlServer
from ps.errors import ConfigError, Error
from ps.experiments import bucket, netlab, ranks
from ps.experiments.cells import Cell, digest_of
from ps.experiments.files import Fault, Links
from ps.experiments.points import FIGURES_S, axis_of, points, read_log, write_points
from ps.experiments.sweep import read_object, write_whole
from ps.experiments.virtual import run_virtual
from ps.launch.options import Deed, Place, RunOptions
from ps.launch.run import run_cluster
from ps.launch.supervisor import Supervisor


def main() -> int:
    """The exit code of the cell's run; 2 when it could not begin."""
    parser = argparse.ArgumentParser(prog="ps.experiments.runner", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inside", action="store_true", help="the network is made already, this is a host of it")
    parser.add_argument("--slot", type=int, default=0, help="no other cell of the sweep that runs now has this one")
    given = parser.parse_args()
    folder: Path = given.folder
    try:
        cell = Cell.model_validate_json((folder / "cell.json").read_text())
        if digest_of(Path(cell.script)) != cell.script_sha256:
            raise ConfigError(
                "script: expected the file as the sweep found it, got an edited one; start the sweep again"
            )
        if cell.world == "netlab" and not given.inside:
            network = netlab.name_of(folder.parent.parent, given.slot)
            command = [sys.executable, "-m", "ps.experiments.runner", "--inside", str(folder)]
            return netlab.inside(cell, network, command)
        environment = read_object(folder.parent.parent / "environment.json")
        outcome = _run(cell, folder)
        finish(cell, folder, outcome, environment)
    except (Error, OSError) as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return 2
    code: int = outcome["exit_code"]
    return code


def finish(cell: Cell, folder: Path, outcome: dict[str, Any], environment: dict[str, Any]) -> None:
    """Writes the points, with what the sweep has found where it runs, and last the outcome: whole or not at all."""
    rows = read_log(folder / "run.jsonl")
    written = folder / "points.parquet.part"
    began = outcome["began"] or 0.0
    if cell.launch == "ranks":  # their times are of a clock of their own
        began = min((row["seconds"] for row in rows), default=0.0)
    write_points(points(cell, rows, axis_of(cell, outcome["links"]), began), environment, written)
    written.rename(folder / "points.parquet")
    write_whole(folder / "outcome.json", json.dumps(outcome))


def _run(cell: Cell, folder: Path) -> dict[str, Any]:
    if cell.world == "virtual":
        outcome = run_virtual(cell, folder)
        end_of(folder / "run.jsonl")
        return {**outcome, "links": "virtual"}
    if cell.world == "netlab":
        return {**_run_processes(cell, folder, netlab.place_of(cell)), "links": "netlab"}
    if cell.links == Links():
        return {**_run_processes(cell, folder, lambda name: Place()), "links": "none"}
    return {**_run_processes(cell, folder, bucket.place_of(cell, folder)), "links": "token bucket"}


def end_of(path: Path) -> dict[str, Any]:
    """What a run.jsonl tells at last: how the run ended. Raises: ConfigError where it was cut off."""
    *_, last = path.read_bytes().splitlines() or [b""]
    try:
        row = json.loads(last)
    except ValueError:
        row = None
    if not isinstance(row, dict) or row.get("event") != "end":
        raise ConfigError(f"{path}: expected the run's end in its last line, got none; make room, and start it again")
    return row


def _run_processes(cell: Cell, folder: Path, place: Callable[[str], Place]) -> dict[str, Any]:
    if cell.launch == "ranks":
        return ranks.run(cell, folder, place)
    made: list[ControlServer] = []

    def control(config: RunConfig) -> ControlServer:
        made.append(ControlServer(config, host=place("controller").address, hold=True))
        return made[-1]

    options = RunOptions(
        cell.script,
        tuple(cell.args),
        cell.options,
        stop_after=cell.stop_after,
        stop_when=cell.stop_when,
        patience=cell.patience,
        max_restarts=cell.max_restarts,
        log_dir=str(folder / "logs"),
        quiet=True,
        figures_s=FIGURES_S,
        faults=tuple(Deed(fault.clock, fault.words, partial(_happen, cell, fault)) for fault in cell.faults),
        place=place,
    )
    code = run_cluster(options, make_control=control)
    for log in (folder / "logs").glob("*/*"):
        shutil.move(log, folder / log.name)
    shutil.rmtree(folder / "logs", ignore_errors=True)
    if code and not (folder / "run.jsonl").exists():
        sys.exit(code)  # it could not begin, and has said why
    ended = end_of(folder / "run.jsonl")
    kept = {name: ended[name] for name in ("reason", "seconds", "began", "clocks", "restarts", "processes")}
    return {"exit_code": code, **kept, "checksum": None, "peers": made[0].status()["metrics"]}


def _happen(cell: Cell, fault: Fault, supervisor: Supervisor) -> None:
    if fault.cut is None:
        supervisor.signal(fault.killed, signal.SIGKILL)
    else:
        netlab.cut(cell.hosts[fault.cut], fault.seconds or 0.0)


if __name__ == "__main__":
    sys.exit(main())
