"""What ranks write is read as it comes: clocks, the begin, and when a stop rule holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ps.errors import ConfigError
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
    assert log.clocks == [5, 4]
    with log.path.open("a") as file:
        file.write("\n")
    assert log.look([low]) == "--stop-when loss<=0.3: worker 0 logged 0.2"
    assert log.clocks == [6, 4]
    assert log.look([low]) is None, "a row that was seen holds no more"


def test_clocks_are_those_of_the_ranks_that_tell(tmp_path: Path) -> None:
    log = Log(tmp_path / "run.jsonl", size=3)
    write(log, (1.0, 0, 9, 1.0))
    assert log.look([stop_after("10clocks")]) is None
    write(log, (1.0, 0, 10, 1.0))
    assert log.look([stop_after("10clocks")]) == "--stop-after 10clocks is reached"


def test_the_begin_is_told_by_our_clock_not_by_theirs(tmp_path: Path) -> None:
    log = Log(tmp_path / "run.jsonl", size=1)
    told: list[float | None] = []
    before = log.seconds
    for row in ([], [(5000.0, 0, 1, 0.9)], [(1.0, 0, 2, 0.8)]):
        write(log, *row)
        log.look([])
        told.append(log.began)
    assert told[0] is None and told[1] == told[2]
    assert told[1] is not None and before <= told[1] <= log.seconds


def test_what_two_ranks_have_written_into_is_passed_over(tmp_path: Path) -> None:
    log = Log(tmp_path / "run.jsonl", size=2)
    with log.path.open("a") as file:
        file.write('{"time": 1.0, "ra{"time": 1.0, "rank": 1}\nk": 0, "clock": 1}\n\n7\n')
    write(log, (1.0, 1, 3, 0.5))
    assert log.look([stop_when("loss<=0.5")]) == "--stop-when loss<=0.5: worker 1 logged 0.5"
    assert log.clocks == [0, 3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"time": 1.0, "rank": 0, "name": "loss", "value": 1.0}', "expected time, rank, clock, name and value, got "),
        ('{"time": 1.0, "rank": 2, "clock": 1, "name": "loss", "value": 1.0}', "rank: expected 0 to 1, got 2"),
        ('{"time": 1.0, "rank": -2, "clock": 1, "name": "loss", "value": 1.0}', "rank: expected 0 to 1, got -2"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    log = Log(tmp_path / "run.jsonl", size=2)
    write(log, (1.0, 0, 1, 1.0))
    log.look([])
    with log.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=rf"^{log.path}:2: {said}"):
        log.look([])
