"""Batches of parameters: placed on shards, given their first values by one worker, told to everybody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from ps.compression.auto import Decision
from ps.controller.actions import Send
from ps.errors import ConfigError
from ps.keyspace import Keyspace, Parameter, empty_map, place
from ps.messages import Place, Register, Registered, Rejected, Spec
from ps.types import server_peer, worker_peer

if TYPE_CHECKING:
    from ps.controller.core import Controller

Settle = Callable[[list[Parameter], float], tuple[Decision, list[Parameter]]]  # of a batch, over a link of bytes/s


@dataclass(slots=True)
class Batch:
    """One registered batch of parameters and who waits for its placement and initial values."""

    specs: tuple[Spec, ...]
    place: Place
    decision: Decision
    confirmed: set[int] = field(default_factory=set)  # shards
    initialiser: int = -1  # the worker that was told to send the initial values
    ready: bool = False  # the shards have them
    waiting: set[int] = field(default_factory=set)  # worker ranks


class Batches:
    """All batches of the job. settle: gives parameters their codecs, where the run leaves that to the controller;
    check_optimizer raises ConfigError for one that a script cannot have."""

    def __init__(
        self, controller: Controller, shards: int, settle: Settle | None, check_optimizer: Callable[[str], object]
    ) -> None:
        self._controller, self._shards = controller, shards
        self._settle, self._check_optimizer = settle, check_optimizer
        self.keyspace = Keyspace()
        self.map = empty_map(shards)
        self.all: list[Batch] = []
        self.optimizer = ""  # the script's, where it has asked for one

    def ready(self, number: int, rank: int) -> None:
        """The initial values of this batch are in."""
        if number < len(self.all):
            self.all[number].ready = True
            self.wait_for(number, rank)

    def register(self, register: Register) -> None:
        """A worker's batch: the first that asks has it placed, the others must ask for the same."""
        rank, number = int(register.worker), register.batch
        if number > len(self.all):
            why = f"expected batch {len(self.all)}, got {number}"
            self._controller.post(worker_peer(rank), Rejected(register.incarnation, f"register: {why}", fenced=False))
            return
        if number == len(self.all):
            try:
                self._add(register)
            except ConfigError as error:
                self._controller.post(worker_peer(rank), Rejected(register.incarnation, str(error), fenced=False))
                return
        batch = self.all[number]
        if batch.specs != register.specs or register.optimizer != self.optimizer:
            what = difference(batch.specs, register.specs) if batch.specs != register.specs else self._other(register)
            why = f"worker {rank}: register: {what}"
            self._controller.post(worker_peer(rank), Rejected(register.incarnation, why, fenced=False))
        else:
            self._controller.members[rank].registered = True
            self.wait_for(number, rank)

    def _other(self, register: Register) -> str:
        return (
            f"optimizer: expected {self.optimizer or 'none'} as in the first batch, got {register.optimizer or 'none'}"
        )

    def _add(self, register: Register) -> None:
        if register.optimizer != self.optimizer:
            if self.all:
                raise ConfigError(f"register: {self._other(register)}")
            self._check_optimizer(register.optimizer)
        specs, link = register.specs, register.link
        parameters: list[Parameter] = [spec.parameter() for spec in specs]
        decision = Decision("", "")
        if self._settle is not None:
            if not link > 0:
                raise ConfigError(f"register: link: expected bytes per second > 0, got {link!r}")
            decision, parameters = self._settle(parameters, link)
        ids = self.keyspace.extend(parameters)
        self.map = place(self.keyspace.slices, self.map)
        number = len(self.all)
        settled = tuple(Spec.of(parameter) for parameter in parameters)
        self.optimizer = register.optimizer
        where = (self.map.epoch, self.map.shard_S[ids.start :])
        batch = Batch(specs, Place(number, settled, *where, self.optimizer), decision)
        self.all.append(batch)
        for shard in range(self._shards):
            self._controller.post(server_peer(shard), batch.place)
        for reader in self._controller.readers:
            self._controller.post(reader, batch.place)

    def placed(self, shard: int, epoch: int) -> None:
        """A shard knows all batches up to this placement map."""
        for number, batch in enumerate(self.all):
            if batch.place.epoch <= epoch and shard not in batch.confirmed:
                batch.confirmed.add(shard)
                self._answer_waiting(number)

    def wait_for(self, number: int, rank: int) -> None:
        """The worker rests until the batch is ready."""
        self.all[number].waiting.add(rank)
        self._controller.rest([rank], True)
        self._answer_waiting(number)

    def _answer_waiting(self, number: int) -> None:
        """Once a batch is placed, the lowest live rank is to send its values; all are answered after that.

        Of the first batch when all that the run began with have registered it: clock 0 opens for everybody at once.
        """
        batch, controller = self.all[number], self._controller
        if len(batch.confirmed) < self._shards:
            return
        first = min(controller.live, default=-1)
        if not batch.ready and batch.initialiser < 0 and first in batch.waiting:
            batch.initialiser = first
            self._registered(batch, number, first)
        absent = (
            []
            if number
            else [r for r in controller.live if r < controller.size and not controller.members[r].registered]
        )
        for rank in sorted(batch.waiting):
            if batch.ready and not absent:
                self._registered(batch, number, rank)
            elif batch.ready:
                controller.post(worker_peer(rank), controller.waiting_for(absent[0], number))
            else:
                awaited = first if batch.initialiser < 0 else batch.initialiser
                controller.post(worker_peer(rank), controller.waiting_for(awaited, number))

    def _registered(self, batch: Batch, number: int, rank: int) -> None:
        batch.waiting.discard(rank)
        body = Registered(number, not batch.ready, batch.place.epoch, batch.place.shard_E, *batch.decision)
        self._controller.rest([rank], False, [Send(worker_peer(rank), body)])

    def forget(self, rank: int) -> None:
        """The worker is gone, or has started again: what it was to send, the lowest live rank sends."""
        for number, batch in enumerate(self.all):
            batch.waiting.discard(rank)
            if batch.initialiser == rank:
                batch.initialiser = -1
            self._answer_waiting(number)


def difference(known: tuple[Spec, ...], got: tuple[Spec, ...]) -> str:
    """Where two registered batches part, in words."""
    for number, (mine, theirs) in enumerate(zip(known, got, strict=False)):
        if mine.name != theirs.name:
            return _told(f"parameter {number}", repr(mine.name), repr(theirs.name))
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            both = (f"shape {spec.shape} {spec.dtype}" for spec in (mine, theirs))
            return _told(f"parameter {mine.name!r}", *both)
        if mine != theirs:
            unlike = [f.name for f in fields(Spec) if getattr(mine, f.name) != getattr(theirs, f.name)]
            both = (", ".join(f"{name}={getattr(spec, name)!r}" for name in unlike) for spec in (mine, theirs))
            return _told(f"parameter {mine.name!r}: options", *both)
    longer, what = (known, "missing") if len(known) > len(got) else (got, "one too many")
    name = longer[min(len(known), len(got))].name
    return _told("batch", f"{len(known)} parameters", f"{len(got)}, {name!r} is {what}")


def _told(what: str, expected: str, got: str) -> str:
    remedy = "register the same parameters in the same order everywhere"
    return f"{what}: expected {expected} like the other workers, got {got}; {remedy}"
