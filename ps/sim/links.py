"""Links of the simulated network: delay, drop, repeat, reorder, cut; all from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ps.types import CONTROLLER, PeerId


@dataclass(frozen=True, slots=True)
class LinkFaults:
    """What may happen to one message between worker and server. Times in virtual seconds, chances in [0, 1].

    Control links (to and from the controller) only delay: they are gRPC over TCP, reliable and in order.
    """

    delay_s: float = 1e-3
    jitter_s: float = 1e-3  # added, uniform; messages of one link stay in order
    drop: float = 0.0
    repeat: float = 0.0  # a second copy comes later
    reorder: float = 0.0  # chance to be overtaken
    reorder_s: float = 2e-2  # by up to this much


class Links:
    """Decides when, how often and whether each message arrives."""

    def __init__(self, faults: LinkFaults, random: Random) -> None:
        self.faults, self.random = faults, random
        self.random_of_readers = Random(0)  # of their own: looking at a run does not change it
        self.cuts: set[PeerId] = set()
        self._last: dict[tuple[PeerId, PeerId], float] = {}

    def arrivals(self, sender: PeerId, to: PeerId, now: float) -> list[float]:
        """Times at which copies of a message sent now arrive; none: it is lost."""
        reads = sender.startswith("reader:") or to.startswith("reader:")
        faults, random = self.faults, self.random_of_readers if reads else self.random
        control = CONTROLLER in (sender, to)
        if not control and (sender in self.cuts or to in self.cuts or random.random() < faults.drop):
            return []
        at = now + faults.delay_s + random.random() * faults.jitter_s
        if not control and random.random() < faults.reorder:
            return [at + random.random() * faults.reorder_s]
        at = max(at, self._last.get((sender, to), 0.0))
        self._last[sender, to] = at
        if not control and random.random() < faults.repeat:
            return [at, at + random.random() * faults.reorder_s]
        return [at]

    def cut(self, peer: PeerId) -> None:
        """No data message from or to the peer arrives any more."""
        self.cuts.add(peer)

    def mend(self, peer: PeerId) -> None:
        self.cuts.discard(peer)
