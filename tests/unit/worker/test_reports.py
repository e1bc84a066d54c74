"""How often a worker tells what it has measured, at the times of a clock that is set by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from ps.worker.reports import Reports
from ps.worker.runtime import Worker


@pytest.mark.parametrize(("measured_s", "told"), [(2.0, [0.0, 2.0, 4.0]), (0.5, [0.5 * tick for tick in range(10)])])
def test_measures_are_told_so_often(measured_s: float, told: list[float]) -> None:
    found: list[float] = []
    now = 0.0
    worker = SimpleNamespace(
        port=SimpleNamespace(now=lambda: now, measured=lambda metrics: found.append(now)),
        post=lambda to, message: None,
        metrics=SimpleNamespace(gauge=lambda name, value: None),
        session=SimpleNamespace(clock=0, lr=0.1),
        rank=0,
        incarnation=1,
        has_session=True,
    )
    reports = Reports(cast(Worker, worker))
    reports.measured_s = measured_s
    for tick in range(20):
        now = 0.25 * tick
        worker.session.clock += 1
        reports.report()
    assert found == told
