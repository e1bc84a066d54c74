"""A controller without a network: what it is told, and what it says."""

from __future__ import annotations

from typing import Any

from ps.controller.actions import Send
from ps.controller.core import Controller
from ps.keyspace import Options, Parameter
from ps.messages import Enroll, Spec
from ps.types import PeerId, WorkerId, worker_peer

READER = PeerId("reader:0")
CONFIG = '{"workers": 2}'


def controller(workers: int = 2, shards: int = 1, enrolled: bool = True, **options: Any) -> Controller:
    """A controller whose workers have come."""
    made = Controller(workers, shards, CONFIG, **options)
    for rank in range(workers if enrolled else 0):
        enroll(made, rank)
    return made


def enroll(control: Controller, rank: int, now: float = 0.0) -> Any:
    """The answer to one worker's Enroll."""
    [send] = control.handle(worker_peer(max(rank, 0)), Enroll(WorkerId(rank), False, 7), now)
    return send.body


def say(control: Controller, rank: int, kind: type, *values: Any, now: float = 0.0, incarnation: int = 1) -> list[Send]:
    """One message of a worker."""
    return control.handle(worker_peer(rank), kind(WorkerId(rank), incarnation, *values), now)


def to(sends: list[Send], peer: str) -> list[Any]:
    return [send.body for send in sends if send.to == peer]


def bodies(sends: list[Send], kind: type) -> list[tuple[str, Any]]:
    """Who got a message of this kind, and which."""
    return [(send.to, send.body) for send in sends if isinstance(send.body, kind)]


def spec(name: str, *shape: int, dtype: str = "float32", options: Options = Options()) -> Spec:
    return Spec.of(Parameter(name, shape, dtype, options))


SPECS = (spec("w", 64, 128), spec("b", 64))
