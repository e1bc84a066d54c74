"""A peer that takes nothing is dropped, and costs the others nothing."""

from __future__ import annotations

import asyncio

import pytest

from ps import wire
from ps.config import RunConfig
from ps.control import lines
from ps.control.frames import Body, read_from_controller, to_controller
from ps.control.hello import Goodbye, Hello, Welcome
from ps.control.hub import Hub
from ps.control.lines import Line
from ps.messages import Enroll, Placed
from ps.types import WorkerId

JOB = bytes(16)


def join(hub: Hub, hello: Hello) -> Line:
    line = hub.open()
    hub.receive(line, to_controller(hello))
    return line


def test_a_server_that_takes_nothing_is_dropped_and_the_job_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BYTES_MAX", 4096)

    async def story() -> None:
        hub = Hub(RunConfig(), JOB, 60.0, lambda: None)
        server, worker = join(hub, Hello("server", data_address="tcp://h:1")), join(hub, Hello("worker"))
        hub.receive(worker, to_controller(Body(wire.encode(JOB, Enroll(WorkerId(-1), False, 1)))))
        for _ in range(1000):
            hub.receive(server, to_controller(Body(wire.encode(JOB, Placed(7, 1)))))
            if server.cut.is_set():
                break
        assert server.cut.is_set() and not worker.cut.is_set()
        hub.closed(server)
        assert hub.core.stopped is not None
        assert "server 0 was lost (it does not take what it is sent)" in hub.core.stopped.reason
        hub.finish()
        raw = [frame for _ in range(4) if (frame := await worker.outbox.take()) is not None]
        first, *_, last = map(read_from_controller, raw)
        assert isinstance(first, Welcome) and isinstance(last, Goodbye) and last.failed

    asyncio.run(story())


def test_a_bug_in_the_core_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        hub = Hub(RunConfig(), JOB, 60.0, lambda: None)
        monkeypatch.setattr(hub.core, "handle", lambda *event: 1 // 0)
        server = join(hub, Hello("server", data_address="tcp://h:1"))
        hub.receive(server, to_controller(Body(wire.encode(JOB, Placed(0, 1)))))
        assert hub.outcome is not None and "ZeroDivisionError" in hub.outcome[0] and hub.outcome[1]

    asyncio.run(story())
