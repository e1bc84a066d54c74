"""What ranks write is read as it comes: clocks, the begin, and when a stop rule holds."""

from __future__ import annotations

import json
from pathlib import Path

from ps.experiments.ranks import Log
from ps.launch.rules import stop_after, stop_when


def write(log: Log, *rows: tuple[float, int, int, float], end: str = "\n") -> None:
    with log.path.open("a") as file:
        for seconds, rank, clock, value in rows:
            row = {"time": seconds, "rank": rank, "clock": clock, "name": "loss", "value": value}
            file.write(json.dumps(row) + end)


def test_rules_see_each_row_once_and_whole(tmp_path: Path) -> None:
    log = Log(tmp_path / "run.jsonl", size=2)
    low = stop_when("loss<=0.3")
    assert log.look([low]) is None
    write(log, (2.0, 0, 5, 0.9), (1.5, 1, 4, 0.8))
    write(log, (3.0, 0, 6, 0.2), end="")  # not all of the line is there
    assert log.look([low]) is None
    assert (log.clocks, log.began) == ([5, 4], 1.5)
    with log.path.open("a") as file:
        file.write("\n")
    assert log.look([low]) == "--stop-when loss<=0.3: worker 0 logged 0.2"
    assert (log.clocks, log.began) == ([6, 4], 1.5)
    assert log.look([low]) is None, "a row that was seen holds no more"


def test_clocks_are_those_of_the_ranks_that_tell(tmp_path: Path) -> None:
    log = Log(tmp_path / "run.jsonl", size=3)
    write(log, (1.0, 0, 9, 1.0))
    assert log.look([stop_after("10clocks")]) is None
    write(log, (1.0, 0, 10, 1.0))
    assert log.look([stop_after("10clocks")]) == "--stop-after 10clocks is reached"
