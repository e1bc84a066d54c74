"""Who may take part: what a peer says of itself, and the controller's answer. Plain data; gRPC is elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ps import __version__
from ps.compression import COMPRESSORS
from ps.config import RunConfig
from ps.machine import available_bytes, machine_name
from ps.wire import JOB_BYTES, WIRE_VERSION

Role = Literal["worker", "server", "reader"]
HELLO_S = 60.0  # a peer has so long to say who it is, and then for all servers to be there
TEXT_BYTES_MAX = 1024  # of each text in a Hello: they go into errors and the status


def numerics_id() -> str:
    """Names the arithmetic of the commit path: peers that have the same compute the same bits."""
    return "1"


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer says of itself, first of all. The defaults are the truth about this process."""

    role: Role
    job: bytes = b""  # empty: not known yet
    rank: int = -1  # workers; -1: any
    data_address: str = ""  # servers: "tcp://host:port", or "ipc://name" for this machine
    wire_version_min: int = WIRE_VERSION
    wire_version_max: int = WIRE_VERSION
    numerics_id: str = field(default_factory=numerics_id)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    codecs: tuple[str, ...] = tuple(sorted(COMPRESSORS))
    release: str = __version__
    shard: int = -1  # servers: the one it wants; -1: any
    machine: str = field(default_factory=machine_name)  # peers that share memory have the same
    memory_available: int = field(default_factory=available_bytes)  # bytes; 0: not known


@dataclass(frozen=True, slots=True)
class Welcome:
    """The controller's yes. servers: shard -> data address, complete for workers and readers; shard: -1 for them."""

    job: bytes
    config: RunConfig
    shard: int
    servers: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The controller's no, in the four parts of every error."""

    field: str
    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.got}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The job is over."""

    reason: str
    failed: bool


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """How a peer's connection to the controller has ended: by its Goodbye, or (gone) without one."""

    reason: str
    failed: bool
    gone: bool


def check(hello: Hello, job: bytes) -> Refusal | None:
    """What of the claim does not fit the job with this id, apart from how many servers there are; None: all fits."""
    lengths = {
        "data_address": hello.data_address,
        "numerics_id": hello.numerics_id,
        "host": hello.host,
        "machine": hello.machine,
    }
    for name, text in lengths.items():
        if len(text.encode()) > TEXT_BYTES_MAX:
            return Refusal(name, f"at most {TEXT_BYTES_MAX} bytes", f"{len(text.encode())}", "shorten it")
    if not hello.wire_version_min <= WIRE_VERSION <= hello.wire_version_max:
        theirs = f"{hello.wire_version_min} to {hello.wire_version_max} of release {hello.release[:40]!r}"
        return Refusal("wire version", f"a range with {WIRE_VERSION}", theirs, f"run release {__version__} everywhere")
    if hello.job not in (b"", job):
        theirs = hello.job[:JOB_BYTES].hex()
        return Refusal(
            "job", job.hex(), theirs, "the peer belongs to another job: give it this controller's id, or none"
        )
    if hello.numerics_id != numerics_id():
        remedy = "the peers would compute different bits: install the same release everywhere"
        return Refusal("numerics_id", repr(numerics_id()), repr(hello.numerics_id[:80]), remedy)
    return _check_role(hello)


def _check_role(hello: Hello) -> Refusal | None:
    """Rank and address, as the role needs them."""
    if hello.rank < -1 or (hello.rank >= 0 and hello.role != "worker"):
        expected = "a worker's rank, or -1" if hello.role == "worker" else f"-1 from a {hello.role}"
        return Refusal("rank", expected, str(hello.rank), "leave it out to get any free one")
    if hello.shard < -1 or (hello.shard >= 0 and hello.role != "server"):
        expected = "the shard that the server wants, or -1" if hello.role == "server" else f"-1 from a {hello.role}"
        return Refusal("shard", expected, str(hello.shard), "leave it out to get any free one")
    if hello.role == "server":
        scheme, _, place = hello.data_address.partition("//")
        _, _, port = place.rpartition(":")
        is_port = scheme == "tcp:" and port.isdecimal() and 0 < int(port[:6]) < 1 << 16
        if not (is_port or (scheme == "ipc:" and place)):  # ipc: for peers of the server's own machine
            remedy = "name where the server's data plane listens"
            return Refusal("data_address", "tcp://host:port", repr(hello.data_address), remedy)
    elif hello.data_address:
        remedy = "leave it out: only servers are dialled"
        return Refusal("data_address", f"none from a {hello.role}", repr(hello.data_address), remedy)
    return None


def seat(hello: Hello, there: Mapping[int, str], servers: int) -> int | Refusal:
    """The shard that a server gets, or why none. there: the address of each server that is, by shard."""
    same = [shard for shard, at in there.items() if at == hello.data_address]
    free = [shard for shard in range(servers) if shard not in there]
    if same:
        got = f"{hello.data_address}, where server {min(same)} is"
        remedy = "start each server once, at an address of its own"
        return Refusal("data_address", "an address that no other server has", got, remedy)
    if not free:
        remedy = "raise `servers` in the run's config, or start no more than that"
        return Refusal("servers", f"at most {servers} servers", "one more", remedy)
    if hello.shard < 0:
        return free[0]
    if hello.shard in free:
        return hello.shard
    at = there.get(hello.shard)
    got = str(hello.shard) if at is None else f"{hello.shard}, which the server at {at} holds"
    expected = f"one of 0 to {servers - 1} that no other server holds"
    return Refusal("shard", expected, got, "start each shard once, or leave it out: any")
