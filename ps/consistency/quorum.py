"""Synchronous commits that do not wait for the slowest: backup workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ps.consistency.base import Consistency, Gather
from ps.types import Bool, Int64


@dataclass(frozen=True)
class Quorum(Consistency):
    """A commit takes the first `n` workers of a round; later ones are refused and jump to the new version.

    Per slice; all n gradients were computed on the version they commit on (Chen et al., arXiv 1604.00981, section 3).
    With fewer than `n` live workers it takes all of them.
    """

    n: Annotated[int, Field(ge=1)]  # workers

    def gate(self, clock_E: Int64, min_clock_E: Int64, version_E: Int64, first: bool) -> Bool:
        return version_E >= clock_E

    def commit(self, live: int) -> Gather:
        return Gather(quorum=min(self.n, live), by="version")
