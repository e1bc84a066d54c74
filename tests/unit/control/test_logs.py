"""The queue of what is logged."""

from __future__ import annotations

import pytest

from ps.control import logs as module
from ps.control.logs import Logged, Logs


def test_the_oldest_goes_first_when_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGS_MAX", 3)
    logs = Logs()
    for clock in range(5):
        logs.put(Logged(0.0, 0, clock, {}))
    assert [log.clock for log in logs.take()] == [2, 3, 4]
    assert logs.dropped == 2 and logs.take() == []
