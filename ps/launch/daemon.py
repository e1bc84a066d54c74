"""A controller without processes of its own: it listens, says who is missing, and ends with its job."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ps.addresses import is_every_address
from ps.config import RunConfig
from ps.control.service import ControlServer
from ps.launch.ends import Outcome
from ps.launch.journal import Journal
from ps.launch.rules import Rule
from ps.launch.supervisor import CATCH
from ps.launch.view import Plain, View
from ps.launch.watch import TICK_S, Watch

MISSING_EVERY_S = 10.0  # who is not there yet is named so often


def run_controller(config: RunConfig, rules: list[Rule], host: str, port: int, quiet: bool) -> int:
    """Until the job is over: 0, or 1 when it failed. Call it in the main thread: it catches signals.

    Raises: ConfigError when the port cannot be had.
    """
    control, view = ControlServer(config, host=host, port=port), Plain(quiet)
    try:
        with _caught() as signals:
            address = control.start()
            dialled = address if not is_every_address(host) else f"{socket.gethostname()}:{address.rpartition(':')[2]}"
            view.note(f"controller listens at {address}: {config.servers} servers, {config.workers} workers expected")
            view.note(f"for the others: PS_CONTROLLER={dialled} PS_JOB={control.job.hex()}")
            reason, failed = _follow(control, config, Watch(control, rules, view, Journal(None, view.note)), signals)
    finally:
        control.close()
    view.note(f"the job has {'failed' if failed else 'ended'}: {reason}")
    return int(failed)


def _follow(control: ControlServer, config: RunConfig, watch: Watch, signals: list[int]) -> Outcome:
    """Looks after the job until everybody has been told that it is over."""
    missing = Missing()
    over_at = float("inf")
    while not control.wait(TICK_S):
        outcome, now = watch.look(), time.monotonic()
        missing.tell(watch.status, now, watch.view)
        if signals and outcome is None:
            control.stop(f"its controller got {signal.Signals(signals[0]).name}")
        if outcome is not None and over_at == float("inf"):
            over_at = now + config.timeout_s
        if len(signals) > 1 or now >= over_at:
            left = [f"worker {one['rank']}" for one in watch.workers if one["state"] == "running"]
            watch.view.note(f"not waiting any longer for {', '.join(left) or 'the last goodbye'}")
            control.close()
    watch.look()
    assert control.outcome is not None
    return control.outcome


class Missing:
    """Names who is not there yet, until all have been."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()
        self._complete = False

    def tell(self, status: dict[str, Any], now: float, view: View) -> None:
        """A line every MISSING_EVERY_S, and one when all are there."""
        if self._complete or status["stopped"] is not None:
            return
        names = [f"server {one['shard']}" for one in status["servers"] if one["state"] == "expected"]
        names += [f"worker {one['rank']}" for one in status["workers"] if one["state"] == "expected"]
        if not names:
            self._complete = True
            view.note("all servers and workers are there")
        elif now - self._told_at >= MISSING_EVERY_S:
            self._told_at = now
            view.note(f"waiting for {', '.join(names)}")


@contextmanager
def _caught() -> Iterator[list[int]]:
    """The signals that came, instead of their effect."""
    signals: list[int] = []
    before = {number: signal.signal(number, lambda number, _: signals.append(number)) for number in CATCH}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
