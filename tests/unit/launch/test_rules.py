"""Stop rules as functions of what workers have reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ps.control.logs import Logged
from ps.errors import ConfigError
from ps.launch.rules import Progress, Report, Rule, patience, progress, reports, stop_after, stop_when


def worker(rank: int, clock: int, state: str = "running", **logged: float) -> dict[str, Any]:
    return {"rank": rank, "clock": clock, "state": state, "logged": logged}


def report(name: str, value: float, rank: int = 0) -> Report:
    return Report(1.0, rank, 5, name, value)


@pytest.mark.parametrize(
    ("spec", "before", "after"),
    [
        ("5000clocks", Progress(1e9, [4999, 6000], [9, 9]), Progress(0, [5000, 6000], [0, 0])),
        ("1clock", Progress(1e9, [], []), Progress(0, [1], [0])),
        ("600s", Progress(599.9, [9], [9]), Progress(600, [0], [0])),
        ("0.5s", Progress(0.4, [9], [9]), Progress(0.5, [], [])),
        ("10epochs", Progress(1e9, [99, 99], [9, 10]), Progress(0, [0, 0], [10, 11])),
    ],
)
def test_stop_after(spec: str, before: Progress, after: Progress) -> None:
    rule = stop_after(spec)
    assert rule.reason(before, []) is None and rule.share(before) < 1
    assert rule.reason(after, []) == f"--stop-after {spec.replace('1clock', '1clocks')} is reached"


@pytest.mark.parametrize(("sign", "value"), [(">=", 0.97), ("<=", 0.97), (">", 0.98), ("<", 0.96)])
def test_stop_when(sign: str, value: float) -> None:
    rule = stop_when(f"val_acc {sign} 0.97")
    here = Progress(0, [], [])
    assert rule.reason(here, [report("acc", value), report("val_acc", 1.0 if "<" in sign else 0.5)]) is None
    reason = rule.reason(here, [report("val_acc", value, rank=2)])
    assert reason == f"--stop-when val_acc{sign}0.97: worker 2 logged {value:g}"


def test_patience_counts_reports_without_a_better_one() -> None:
    rule, here = patience("val_loss:2"), Progress(0, [], [])
    assert [rule.reason(here, [report("val_loss", value)]) for value in (1.0, 1.5, 0.9, 0.9)] == [None] * 4
    assert rule.reason(here, [report("val_acc", 0.0)]) is None
    reason = rule.reason(here, [report("val_loss", 2.0)])
    assert reason == "--patience val_loss:2: 2 reports brought none better than 0.9"


def test_patience_takes_higher_for_better_unless_the_name_is_of_a_loss_or_an_error() -> None:
    here = Progress(0, [], [])
    for name, better in (("val_acc", 0.6), ("top1_Err", 0.4)):
        rule = patience(f"{name}:1")
        assert rule.reason(here, [report(name, 0.5), report(name, better)]) is None
        assert rule.reason(here, [report(name, 0.5)]) is not None


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *((stop_after, text) for text in ("5", "clocks", "0s", "-1s", "1.5clocks", "5 minutes", "")),
        *((stop_when, text) for text in ("val_acc", "val_acc==1", ">=1", "val_acc>=high", "")),
        *((patience, text) for text in ("val_loss", ":5", "val_loss:0", "val_loss:x", "")),
    ],
)
def test_wrong_spellings_name_the_flag(parse: Callable[[str], Rule], text: str) -> None:
    with pytest.raises(ConfigError, match=rf"--{parse.__name__.replace('_', '-')}: expected .*, got '{text}'"):
        parse(text)


def test_progress_counts_who_takes_part() -> None:
    workers = [worker(0, 5, epoch=2), worker(1, 3), worker(2, 1, "lost"), worker(3, 9, "done", epoch=9)]
    assert progress({"workers": workers}, 7.0) == Progress(7.0, [5, 3], [2, 0])


def test_every_logged_value_is_a_report_equal_ones_too() -> None:
    logs = [Logged(101.0, 1, 5, {"loss": 0.5, "acc": 0.1}), Logged(103.0, 1, 6, {"loss": 0.5})]
    assert reports(logs, began=100.0) == [
        Report(1.0, 1, 5, "loss", 0.5),
        Report(1.0, 1, 5, "acc", 0.1),
        Report(3.0, 1, 6, "loss", 0.5),
    ]
