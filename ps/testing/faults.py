"""Fault schedules as plain data, drawn from a seed: who takes part, and a list of what goes wrong.

Two gaps of today's control plane are left out of what is drawn: initial values whose only sender is gone, and workers
that read and write part of the slices under rounds by version (who is late on a slice must go on there).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Literal, TypeAlias

from ps.consistency import Gather, consistency
from ps.types import PeerId, server_peer, worker_peer

LEASE_S = 2.0  # virtual seconds
Loss: TypeAlias = Literal["wait", "drop"]


@dataclass(frozen=True, slots=True)
class Lossy:
    """Data links drop this share of all messages."""

    share: float


@dataclass(frozen=True, slots=True)
class Repeating:
    """Data links deliver this share of all messages twice."""

    share: float


@dataclass(frozen=True, slots=True)
class Reordering:
    """Data links let this share of all messages be overtaken."""

    share: float


@dataclass(frozen=True, slots=True)
class SlowApply:
    """An apply takes up to so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class SlowWorker:
    """The worker computes about so many seconds in each clock."""

    rank: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Crash:
    """The worker dies, and comes back after `back_s` seconds (None: never). notice: the controller sees it die."""

    rank: int
    at: float
    back_s: float | None
    notice: bool = True


@dataclass(frozen=True, slots=True)
class Late:
    """The worker starts so late; a rank beyond the expected ones joins a run that is under way."""

    rank: int
    at: float


@dataclass(frozen=True, slots=True)
class Leaves:
    """The worker leaves for good after so many clocks."""

    rank: int
    clocks: int


@dataclass(frozen=True, slots=True)
class Cut:
    """No data message from or to the peer arrives for a while."""

    peer: PeerId
    at: float
    seconds: float


Fault: TypeAlias = Lossy | Repeating | Reordering | SlowApply | SlowWorker | Crash | Late | Leaves | Cut


@dataclass(frozen=True)
class Schedule:
    """One run as plain data; `seed` gives the links' dice and what the scripts do in each clock."""

    seed: int
    workers: int = 2
    servers: int = 1
    clocks: int = 3  # of every worker
    faults: tuple[Fault, ...] = ()
    on_worker_loss: Loss = "drop"
    optimizer: str = "add"
    push: str = "none"  # codecs
    pull: str = "none"
    lease_s: float = float("inf")
    grow_at: int | None = None  # clock at which one more parameter is registered
    factors: bool = False  # one parameter is a matrix, whose gradients are mostly given as factors

    def one(self, kind: type[Any], default: Any) -> Any:
        """The only fault of this kind."""
        return next((fault for fault in self.faults if isinstance(fault, kind)), default)

    def of_rank(self, kind: type[Any], rank: int) -> Any:
        """The first fault of this kind that strikes this worker, or None."""
        return next((fault for fault in self.faults if isinstance(fault, kind) and fault.rank == rank), None)


def draw_schedule(
    seed: int,
    model: str,
    *,
    on_worker_loss: Loss | None = None,
    push: str = "none",
    pull: str = "none",
    optimizer: str | None = None,
    factors: bool = False,
) -> Schedule:
    """The schedule of this seed. Under `drop` one worker neither crashes nor leaves early, so that the job goes on."""
    rng = Random(f"{seed} {model}")
    workers, clocks = rng.randint(1, 4), rng.randint(2, 6)
    loss: Loss = "wait" if rng.random() < 0.5 else "drop"
    loss = on_worker_loss or loss
    lease_s = LEASE_S if loss == "drop" and rng.random() < 0.3 else float("inf")
    grow_at = rng.randrange(clocks) if rng.random() < 0.25 else None
    decision, is_elastic = consistency(model).commit(workers), consistency(model).cadence.elastic is not None
    if grow_at is not None and isinstance(decision, Gather) and decision.by == "version":
        grow_at = 0  # later, who runs ahead waits for the initial values, and those who bring them wait for it
    anchors = {rng.randrange(workers)} | (set() if grow_at is None else {0})  # rank 0 has the initial values
    horizon_s = 0.08 * clocks
    faults = _draw_links(rng)
    joiners = range(workers, workers + (rng.randint(1, 2) if rng.random() < 0.25 else 0))
    for rank in range(joiners.stop):
        faults += _draw_life(rng, rank, rank in joiners, rank in anchors, clocks, horizon_s)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        rank, at = rng.randrange(joiners.stop), round(rng.uniform(0, horizon_s), 4)
        if loss == "wait" or rank not in anchors:
            faults.append(_crash(rng, rank, at, loss == "wait", lease_s))
    if rng.random() < 0.2:
        peers = [server_peer(0), worker_peer(rng.randrange(workers))]
        faults.append(Cut(rng.choice(peers), round(rng.uniform(0, horizon_s), 4), round(rng.uniform(0.01, 0.5), 4)))
    return Schedule(
        seed,
        workers,
        rng.randint(1, 3),
        clocks,
        tuple(faults),
        loss,
        optimizer or ("add" if is_elastic else rng.choice(["add", "add", "sgd:lr=0.5"])),
        push,
        pull,
        lease_s,
        grow_at,
        factors,
    )


def _draw_links(rng: Random) -> list[Fault]:
    """What messages and applies suffer during the whole run."""
    links = [kind for kind in (Lossy, Repeating, Reordering) if rng.random() < 0.6]
    faults: list[Fault] = [kind(rng.choice([0.02, 0.1, 0.3])) for kind in links]
    if rng.random() < 0.6:
        faults.append(SlowApply(rng.choice([0.001, 0.005, 0.03])))
    return faults


def _draw_life(rng: Random, rank: int, joins: bool, stays: bool, clocks: int, horizon_s: float) -> list[Fault]:
    """How slow a worker is, when it comes and when it goes."""
    faults: list[Fault] = []
    if rng.random() < 0.4:
        faults.append(SlowWorker(rank, round(rng.uniform(0, 0.05), 4)))
    if joins or (not stays and rng.random() < 0.15):
        faults.append(Late(rank, round(rng.uniform(0, horizon_s), 4)))
    if not stays and rng.random() < 0.2:
        faults.append(Leaves(rank, rng.randint(1, clocks)))
    return faults


def _crash(rng: Random, rank: int, at: float, waits: bool, lease_s: float) -> Crash:
    """A silent one comes back, or its lease tells that it is gone."""
    notice = rng.random() < 0.6
    gone = not waits and rng.random() < 0.5 and (notice or lease_s < float("inf"))
    return Crash(rank, at, None if gone else round(rng.choice([0.0, 0.02, 0.1, 0.4, 3.0]) * rng.random(), 4), notice)
