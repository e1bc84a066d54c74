"""Whether the machines of a job have the memory that it is about to take, as far as they have said what is free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ps.bill import Bill, bill_of
from ps.config import RunConfig
from ps.control.lines import Line
from ps.controller.core import Controller
from ps.machine import in_words


class Rooms:
    """The bill of what is registered, and who of the peers has to pay which part of it."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._batches = 0  # that the bill is of
        self.bill: Bill | None = None

    def look(self, core: Controller, lines: Iterable[Line]) -> str:
        """Why the job cannot go on; empty where nothing is known against it. Call it when a worker has registered."""
        batches = core.batches
        if len(batches.all) > self._batches:
            config = self._config.with_optimizer(batches.optimizer) if batches.optimizer else self._config
            self._batches = len(batches.all)
            self.bill = bill_of(config, batches.keyspace.slices, batches.map.shard_S.tolist())
        if self.bill is None or batches.all[-1].ready:  # whoever comes later takes the place of one who had room
            return ""
        there: dict[str, list[Line]] = {}
        for line in lines:
            if line.memory_available:
                there.setdefault(line.machine, []).append(line)
        for _, peers in sorted(there.items()):
            needed, free = sum(self._part(line) for line in peers), max(line.memory_available for line in peers)
            if needed > free:
                return _told(peers, needed, free)
        return ""

    def status(self) -> dict[str, Any] | None:
        """Part of ControlServer.status: bytes, and the same in words; None before anything is registered."""
        if self.bill is None:
            return None
        bill = self.bill
        return {"values": bill.values, "servers": list(bill.servers), "worker": bill.worker, "words": str(bill)}

    def _part(self, line: Line) -> int:
        assert self.bill is not None
        if line.shard >= 0:
            return self.bill.servers[line.shard]
        return self.bill.worker if line.rank >= 0 else 0


def _told(lines: list[Line], needed: int, free: int) -> str:
    names = sorted(line.title for line in lines if line.shard >= 0 or line.rank >= 0)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    who = ", ".join(str(name).replace(":", " ") for name in names[:4]) + more
    host = lines[0].machine.partition("/")[0]
    return (
        f"memory of {host}: expected {in_words(needed)} for {who}, beside what the scripts take for themselves, got "
        f"{in_words(free)} free; use larger or more machines, or an optimizer and a compression that keep less "
        f"(docs/memory.md)"
    )
