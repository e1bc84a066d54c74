"""Large clusters without payload: the cores of workers and servers, event by event, no threads, no arrays of values.

A slice has a size and no bytes; a worker is a generator that goes through a training loop as `ps.worker.runtime` does:
compute, then `push_pull`. What is sent when, under which header, in which parts, is what runtimes and scripts of
`ps.sim.loop` would send; tests hold both to the same times.
"""

from __future__ import annotations

import gc
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ps import wire
from ps.config import RunConfig
from ps.errors import ConfigError
from ps.keyspace import Keyspace, Options, Parameter, empty_map, place
from ps.messages import Ask, Leave, LeaveDone, Pull, Push, Tick, Ticked, Values, Verdicts
from ps.server.ledger import Record
from ps.sim.loop import JOB
from ps.sim.network import Network, Wires
from ps.sim.peers import ShardPeer, WorkerPeer
from ps.sim.timeline import Timeline
from ps.types import PeerId
from ps.worker.standing import knows_updates

Watch = Callable[[int, Record], None]
Shape: TypeAlias = tuple[Any, ...]
SHAPES: dict[type[Any], Callable[[Any], Shape]] = {  # what the encoded bytes of each message depend on
    Push: lambda m: (Push, m.worker.bit_length(), m.clock.bit_length(), len(m.slice_E)),
    Tick: lambda m: (Tick, m.worker.bit_length(), m.clock.bit_length(), len(m.slice_E)),
    Pull: lambda m: (Pull, m.worker.bit_length(), m.clock.bit_length(), len(m.slice_E), len(m.mark_K)),
    Leave: lambda m: (Leave, m.worker.bit_length()),
    Ask: lambda m: (Ask, m.worker.bit_length(), len(m.slice_E)),
    Verdicts: lambda m: (Verdicts, len(m.slice_E)),
    Ticked: lambda m: (Ticked, m.clock.bit_length()),
    Values: lambda m: (Values, len(m.slice_E)),
    LeaveDone: lambda m: (LeaveDone,),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What one step of a worker is made of.

    parameters: name -> shape; they are cut into slices and placed as in any run. dtypes: of those not float32.
    compute: seconds of the next step of this rank, drawn from the rank's own random numbers.
    push_share, pull_share: of the bytes of a slice those that travel; below 1 where a codec is at work.
    """

    parameters: Mapping[str, tuple[int, ...]]
    compute: Callable[[int, Random], float] = lambda rank, random: 0.0
    push_share: float = 1.0
    pull_share: float = 1.0
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("push_share", "pull_share"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"profile: {name}: expected a finite number > 0, got {getattr(self, name)!r}")

    def compute_s(self, rank: int, random: Random) -> float:
        """Seconds of the next step. Raises: ConfigError naming the rank."""
        seconds = self.compute(rank, random)
        if not 0 <= seconds < math.inf:
            raise ConfigError(f"profile: compute: expected finite seconds >= 0 for worker {rank}, got {seconds!r}")
        return seconds


@dataclass(slots=True)
class Outcome:
    """What a simulated run was like. W: workers; C: clocks.

    end_CW: virtual seconds at which each worker had its first values (row 0), and those after each of its clocks.
    waited_s: seconds that the pulls of a worker were parked, by the worker whose message opened the gate.
    """

    end_CW: NDArray[np.float64]
    staleness: Counter[int] = field(default_factory=Counter)  # in commits -> how many commits of a slice had it
    waited_s: dict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))  # (worker, for whom)
    refused: int = 0  # pushes of a slice that came too late for their round
    bytes: float = 0.0  # on the wire, both ways
    messages: int = 0

    @property
    def clock_s(self) -> float:
        """Seconds per clock: from the first values of the last worker to the last values of all."""
        return float(self.end_CW[-1].max() - self.end_CW[0].max()) / (len(self.end_CW) - 1)


def simulate(
    config: RunConfig,
    profile: Profile,
    network: Network,
    clocks: int,
    seed: int = 0,
    watch: Watch | None = None,
) -> Outcome:
    """Runs `clocks` (>= 1) steps of every worker. Same arguments, same outcome. `watch(shard, record)` sees all logs.

    Raises: ConfigError naming what makes no sense.
    """
    if clocks < 1:
        raise ConfigError(f"clocks: expected at least 1, got {clocks}")
    cadence = config.model().cadence
    if cadence.fragments > 1 or cadence.overlap:
        raise ConfigError(
            f"consistency: expected fragments=1 and overlap=0 where values are left out, got {config.consistency}; "
            "with values there are both"
        )
    return Cluster(config, profile, network, clocks, seed, watch).run()


def keyspace_of(config: RunConfig, profile: Profile) -> Keyspace:
    """The parameters, cut into slices as the run cuts them. Raises: ConfigError."""
    made = Keyspace()
    made.extend(
        [
            Parameter(name, shape, profile.dtypes.get(name, "float32"), config.options_of(name, Options()))
            for name, shape in profile.parameters.items()
        ]
    )
    return made


def random_of(seed: int, rank: int) -> Random:
    """The random numbers of one rank."""
    return Random((seed << 20) + rank)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing here makes cycles, and walking all that is alive again and again takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Cluster(Timeline):
    """All peers and what is under way between them."""

    def __init__(
        self, config: RunConfig, profile: Profile, network: Network, clocks: int, seed: int, watch: Watch | None
    ) -> None:
        super().__init__()
        self.config, self.profile, self.network, self.clocks, self.watch = config, profile, network, clocks, watch
        self.wires = Wires(network, self)
        self.outcome = Outcome(np.zeros((clocks + 1, config.workers)))
        self.keyspace = keyspace_of(config, profile)
        self.overlays = knows_updates(config, self.keyspace.parameters)
        self.placed = place(self.keyspace.slices, empty_map(config.servers))
        self.nbytes_S = np.array([one.nbytes for one in self.keyspace.slices], np.int64)
        self.push_bytes = np.ceil(self.nbytes_S * profile.push_share).astype(np.int64)
        self.pull_bytes = np.ceil(self.nbytes_S * profile.pull_share).astype(np.int64)
        self._headers: dict[tuple[Shape, ...], int] = {}
        self.servers = [ShardPeer(self, shard) for shard in range(config.servers)]
        self.workers = [WorkerPeer(self, rank, random_of(seed, rank)) for rank in range(config.workers)]

    def run(self) -> Outcome:
        for worker in self.workers:
            self.at(0.0, worker.go_on)
        with _without_collector():
            self.run_out()
        for worker in self.workers:
            assert worker.is_over, f"worker {worker.session.rank} waits for ever, at {self.now} s"
        self.outcome.bytes = self.wires.bytes
        return self.outcome

    def send(self, sender: PeerId, to: PeerId, bodies: list[Any], nbytes: int, take: Callable[[], None]) -> None:
        """Puts messages on their way under one header, with so many bytes of payload."""
        self.outcome.messages += 1
        self.wires.carry(sender, to, self._header_bytes(bodies) + nbytes, take)

    def _header_bytes(self, bodies: list[Any]) -> int:
        """Bytes of the header: it is encoded once for each shape."""
        shape = tuple([SHAPES[type(body)](body) for body in bodies])
        if (size := self._headers.get(shape)) is None:
            size = self._headers[shape] = len(wire.encode(JOB, *bodies))
        return size
