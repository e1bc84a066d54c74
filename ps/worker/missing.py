"""For whom a worker waits, in words: what every deadline says when it runs out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ps.messages import Waiting
from ps.worker.actions import PullEntry

if TYPE_CHECKING:
    from ps.worker.runtime import Worker


class Missing:
    """Names worker, server, slice and clock, and the last sign of life."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def silent_shards(self) -> str:
        """Servers that have not answered Join or Init."""
        silent = [
            s
            for s in range(self.worker.config.servers)
            if s not in self.worker.session.welcomed or s in self.worker.session._inits
        ]
        return f"no answer from {', '.join(f'server {s}{self._last_heard(s)}' for s in silent)}"

    def _last_heard(self, shard: int) -> str:
        heard = self.worker.session.heard.get(shard)
        return " (never heard)" if heard is None else f" (last heard {self.worker.port.now() - heard:.1f} s ago)"

    def of_pull(self, entry: PullEntry) -> str:
        """Which servers have not answered, and for whom they wait."""
        parts = []
        for shard, (ids, _) in entry.missing.items():
            name = self.worker.keyspace.describe(int(ids[0]))
            note = entry.note
            if note is not None and note.worker >= 0 and note.slice in ids:
                who = f"waits for {_described(note)}"
            elif note is not None and note.worker < 0 and note.slice in ids:
                who = "has no initial values yet; the lowest live rank must call register"
            else:
                who = f"has not answered{self._last_heard(shard)}"
            parts.append(f"pull of {name} at clock {entry.clock}: server {shard} {who}")
        return "; ".join(parts)

    def at_barrier(self, barrier: int) -> str:
        """Which worker has not reached a barrier, in words, as the controller last said."""
        if self.worker.behind is None or self.worker.behind.id != barrier:
            return f"barrier {barrier}: the controller has not answered"
        return f"barrier {barrier}: waits for {_described(self.worker.behind)}"

    def at_registration(self, batch: int) -> str:
        """Who has not confirmed a batch, or not sent its initial values."""
        if self.worker.behind is None or self.worker.behind.id != batch:
            return f"register: batch {batch} is not placed; some server has not confirmed it"
        return f"register: batch {batch} waits for {_described(self.worker.behind)}"

    def verdicts(self) -> str:
        """Which pushes wait for their verdict, in words."""
        parts = []
        for entry in list(self.worker.session.pushes.values())[:3]:
            slice_id, (seq, _) = next(iter(entry.open.items()))
            shard = int(self.worker.session.shard_S[slice_id])
            what = "gathered, its commit waits for other workers" if slice_id in entry.gathered else "no verdict"
            where = f"server {shard}{self._last_heard(shard)}"
            parts.append(
                f"push {seq} of {self.worker.keyspace.describe(slice_id)} at clock {entry.clock}: {what}, {where}"
            )
        silent = ", ".join(f"server {shard}" for shard in sorted({shard for shard, _ in self.worker.session._ticks}))
        return "; ".join(parts) or f"{silent} has not confirmed a tick"


def _described(note: Waiting) -> str:
    """Whom a wait is for, in words."""
    heard = f"last heard {note.silent_s:.1f} s ago" if note.silent_s >= 0 else "which has never joined"
    return f"worker {note.worker}, at clock {note.clock}, {heard}"
