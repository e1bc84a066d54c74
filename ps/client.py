"""Runs one training function as a worker on a port."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from ps.worker.client import Client
from ps.worker.port import Port
from ps.worker.runtime import Worker


def run_client(port: Port, job: bytes, rank: int, train: Callable[[Client], Any]) -> Any:
    """Joins as `rank`, runs `train(client)`, leaves. An exception of train ends the job and comes out here."""
    client = Client(Worker(port, job, rank))
    try:
        result = train(client)
    except BaseException as error:  # SystemExit too: nobody may go on waiting for this worker
        client.close(traceback.format_exc())
        error.add_note(f"(raised in worker {rank} at clock {client.clock})")
        raise
    client.close()
    return result
