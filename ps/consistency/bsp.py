"""Bulk synchronous parallel: every clock is one commit of everybody's gradients."""

from __future__ import annotations

from dataclasses import dataclass

from ps.consistency.base import Consistency, Gather
from ps.types import Bool, Int64


@dataclass(frozen=True)
class BulkSynchronous(Consistency):
    """A read at clock c waits for commit c, which waits for all live workers (Valiant, 1990).

    Commits (sum over k in rank order of float32(weight_k) * g_k) / sum of weight_k, bit for bit what one process does.
    """

    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return version_E >= clock_E

    def commit(self, live: int) -> Gather:
        return Gather(quorum=live)
