"""Time on the wire and in processors: hosts with network cards, peers placed on them, what work costs.

Each direction of a card is shared as TCP shares it: all connections (pairs of peers) that have bytes there get equal
parts of its rate, and each connection keeps its order. A message is there when the slower of both cards is through with
it, and the delays of both hosts have passed. So every card works without a pause while it has bytes, and a message that
is alone takes bytes / the lower rate. The data plane has no priorities, so there are none here.

What is left out: a flow that one card holds back takes its equal part of the other card all the same (TCP would give
the rest to others), and a card is taken from the moment a message is sent, not a delay later.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial

from ps.errors import ConfigError
from ps.server.core import Shard
from ps.server.ledger import Commit
from ps.sim.timeline import Timeline
from ps.types import CONTROLLER, PeerId

Then = Callable[[], None]
FREE = float("inf")  # a rate: no time passes
EXACT = 1e-12  # of the time that it is: what rounding may add to a finish


def _check_cost(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name}: expected a finite number >= 0, got {value!r}")


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with one full-duplex network card."""

    rate: float = FREE  # bytes per second, each way
    delay_s: float = 0.0  # one way, from here to the middle of the network: a path has those of both ends
    loopback: float = FREE  # bytes per second between its own peers, who have no delay

    def __post_init__(self) -> None:
        for name in ("rate", "loopback"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"host: {name}: expected bytes per second > 0, got {getattr(self, name)!r}")
        _check_cost("host: delay_s", self.delay_s)


@dataclass(frozen=True, slots=True)
class Network:
    """Where peers are, and what their work costs. All that is not given is free.

    worker, server: the host that each worker and each server has of its own, unless `place` puts it on one of `hosts`.
    The controller and readers are on none: their messages have the delay of the other end, and take no bytes.
    """

    worker: Host = Host()
    server: Host = Host()
    hosts: Mapping[str, Host] = field(default_factory=dict)
    place: Mapping[str, str] = field(default_factory=dict)  # "worker:0" -> name of a host
    frame_bytes: int = 0  # beside header and buffers of each message: what TCP, IP and the card add
    encode_s_per_byte: float = 0.0  # a worker's seconds per byte of a push, before it leaves
    decode_s_per_byte: float = 0.0  # a worker's seconds per byte that it takes in, as it travelled
    apply_s_per_byte: float = 0.0  # a server's seconds per byte of every push in a commit, as values
    worker_message_s: float = 0.0  # a worker's seconds per data message that it sends or takes in
    server_message_s: float = 0.0  # a server's seconds per message that it takes in

    def __post_init__(self) -> None:
        for one in fields(self):
            if one.name.endswith(("_s", "_byte", "_bytes")):
                _check_cost(f"network: {one.name}", getattr(self, one.name))
        for peer, name in self.place.items():
            kind, _, number = peer.partition(":")
            if kind not in ("worker", "server") or not number.isdecimal():
                raise ConfigError(f"network: place: expected peers as worker:0 or server:0, got {peer!r}")
            if name not in self.hosts:
                known = ", ".join(sorted(self.hosts)) or "none"
                raise ConfigError(f"network: place: {peer}: expected one of its hosts ({known}), got {name!r}")

    def host_of(self, peer: PeerId) -> tuple[str, Host]:
        """Name and host of a worker or server."""
        if (name := self.place.get(peer)) is not None:
            return name, self.hosts[name]
        return f"host of {peer}", self.worker if peer.startswith("worker:") else self.server

    def encode_s(self, nbytes: int) -> float:
        """A worker's seconds for one data message with so many bytes in buffers."""
        return self.worker_message_s + self.encode_s_per_byte * nbytes

    def decode_s(self, nbytes: int) -> float:
        """A worker's seconds for taking in one data message with so many bytes in buffers."""
        return self.worker_message_s + self.decode_s_per_byte * nbytes

    def apply_s(self, shard: Shard, commits: list[Commit]) -> float:
        """A server's seconds for these commits."""
        if not self.apply_s_per_byte:
            return 0.0
        nbytes_S = shard.slices.nbytes_S
        return self.apply_s_per_byte * sum(int(nbytes_S[one.slice]) * len(one.contributions) for one in commits)


class Lane:
    """What a card knows of one connection."""

    __slots__ = ("last", "queued")

    def __init__(self) -> None:
        self.last = 0.0  # the tag of its last message
        self.queued = 0  # messages; 0: it is idle, and takes no part


class Card:
    """One direction of a card: its connections share the rate equally, each in order (generalised processor sharing).

    Parekh and Gallager, IEEE/ACM Transactions on Networking, 1993: `_served` is what every busy connection has had, a
    message is through when that reaches its tag. So an event costs the logarithm of what is queued.
    """

    def __init__(self, rate: float, timeline: Timeline) -> None:
        self.rate, self._timeline = rate, timeline
        self._served = self._since = 0.0  # bytes; seconds
        self._busy = 0  # connections
        self._heap: list[tuple[float, int, Lane, Then]] = []
        self._order = 0
        self._due = FREE  # when this looks again; never later than the next finish

    def add(self, lane: Lane, nbytes: float, then: Then) -> None:
        """Queues a message; `then` is called when it is through."""
        now, heap = self._timeline.now, self._heap
        self._advance(now)
        if lane.queued:
            lane.last += nbytes
        else:
            lane.last = self._served + nbytes
            self._busy += 1
        lane.queued += 1
        self._order = order = self._order + 1
        heapq.heappush(heap, (lane.last, order, lane, then))
        if heap[0][1] == order:
            self._look(now)

    def _advance(self, now: float) -> None:
        if self._busy:
            self._served += (now - self._since) * self.rate / self._busy
        self._since = now

    def _look(self, now: float) -> None:
        left_s = (self._heap[0][0] - self._served) * self._busy / self.rate  # until the next finish, if nothing comes
        time = now + left_s if left_s > 0 else now
        if time < self._due:
            self._due = time
            self._timeline.at(time, partial(self._finish, time))

    def _finish(self, due: float) -> None:
        if due != self._due:
            return  # a shorter message has come since
        now = self._timeline.now
        self._due = FREE
        self._advance(now)
        heap = self._heap
        through: list[Then] = []
        while heap and (heap[0][0] - self._served) * self._busy / self.rate <= EXACT * now:
            _, _, lane, then = heapq.heappop(heap)
            through.append(then)
            lane.queued -= 1
            self._busy -= not lane.queued
        if heap:
            self._look(now)
        else:
            self._served = 0.0  # so that it stays exact, however long a run is
        for then in through:
            then()


class Wires:
    """Carries messages over the cards of a network, in virtual time."""

    def __init__(self, network: Network, timeline: Timeline) -> None:
        self.network, self._timeline = network, timeline
        self._cards: dict[tuple[str, str], Card] = {}  # (host, direction)
        self._paths: dict[tuple[PeerId, PeerId], tuple[list[tuple[Card, Lane]], float]] = {}
        self.bytes = 0.0  # carried so far

    def carry(self, sender: PeerId, to: PeerId, nbytes: int, then: Then) -> None:
        """Calls `then`, in an event of its own, when a message of so many bytes has come from one peer to the other."""
        path = self._paths.get((sender, to))
        if path is None:
            path = self._paths[sender, to] = self._path(sender, to)
        lanes, delay_s = path
        size = nbytes + self.network.frame_bytes
        self.bytes += size
        left = len(lanes)
        if not left:
            self._timeline.at(self._timeline.now + delay_s, then)

        def through() -> None:
            nonlocal left
            left -= 1
            if not left:
                if delay_s:
                    self._timeline.at(self._timeline.now + delay_s, then)
                else:
                    then()

        for card, lane in lanes:
            card.add(lane, size, through)

    def _path(self, sender: PeerId, to: PeerId) -> tuple[list[tuple[Card, Lane]], float]:
        ends = [None if _takes_no_bytes(peer) else self.network.host_of(peer) for peer in (sender, to)]
        near, far = ends
        if near is None or far is None:
            return [], sum(end[1].delay_s for end in ends if end is not None)
        if near[0] == far[0]:
            wanted, delay_s = [(near[0], "loopback", near[1].loopback)], 0.0
        else:
            wanted = [(near[0], "out", near[1].rate), (far[0], "in", far[1].rate)]
            delay_s = near[1].delay_s + far[1].delay_s
        return [(self._card(host, way, rate), Lane()) for host, way, rate in wanted if rate != FREE], delay_s

    def _card(self, host: str, way: str, rate: float) -> Card:
        return self._cards.setdefault((host, way), Card(rate, self._timeline))


def _takes_no_bytes(peer: PeerId) -> bool:
    return peer == CONTROLLER or peer.startswith("reader:")


class Processor:
    """A peer's one thread: one piece of work after the other, in order; done at the end of its seconds."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._first: deque[tuple[float, Then]] = deque()  # belongs to what was done last
        self._next: deque[tuple[float, Then]] = deque()
        self._is_busy = False

    def do(self, seconds: float, then: Then) -> None:
        """Work behind all that waits."""
        self._next.append((seconds, then))
        self._go_on()

    def do_first(self, seconds: float, then: Then) -> None:
        """Work that goes on from what is just being done, ahead of all that waits."""
        self._first.append((seconds, then))
        self._go_on()

    def _go_on(self) -> None:
        while not self._is_busy and (self._first or self._next):
            seconds, then = (self._first or self._next).popleft()
            self._is_busy = True
            if seconds:
                self._timeline.at(self._timeline.now + seconds, partial(self._done, then))
                return
            then()
            self._is_busy = False

    def _done(self, then: Then) -> None:
        then()  # what it asks for meanwhile waits until it is over
        self._is_busy = False
        self._go_on()
