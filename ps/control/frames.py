"""Frames of proto/control.proto to bytes and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError
from pydantic import ValidationError

from ps.config import RunConfig
from ps.control import control_pb2 as pb
from ps.control.hello import Goodbye, Hello, Refusal, Role, Welcome
from ps.errors import FrameError
from ps.wire import JOB_BYTES

METRICS_BYTES_MAX = 1 << 20
LEAVING_MAX = 1024  # characters

_ROLES: dict[Role, pb.Role] = {"worker": pb.ROLE_WORKER, "server": pb.ROLE_SERVER, "reader": pb.ROLE_READER}
_ROLE_OF: dict[int, Role] = {int(number): role for role, number in _ROLES.items()}


@dataclass(frozen=True, slots=True)
class Body:
    """A control message in the encoding of ps.wire."""

    encoded: bytes


@dataclass(frozen=True, slots=True)
class MetricsJson:
    """What a peer measured."""

    text: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """Why a peer is about to end its stream."""

    why: str


ToController: TypeAlias = Hello | Body | MetricsJson | Leaving
FromController: TypeAlias = Welcome | Body | Refusal | Goodbye


def to_controller(frame: ToController) -> bytes:
    """A peer's frame as bytes."""
    match frame:
        case Hello():
            packed = pb.ToController(hello=_pack_hello(frame))
        case Body(encoded):
            packed = pb.ToController(message=encoded)
        case MetricsJson(text):
            packed = pb.ToController(metrics=text)
        case Leaving(why):
            packed = pb.ToController(leaving=why)
    return packed.SerializeToString()  # type: ignore[no-any-return]


def read_to_controller(raw: bytes) -> ToController:
    """Raises: FrameError when the bytes are no frame of a peer."""
    try:
        frame = pb.ToController.FromString(raw)
    except DecodeError:
        raise FrameError(f"expected a frame of proto/control.proto, got {len(raw)} other bytes") from None
    match frame.WhichOneof("frame"):
        case "hello":
            return _read_hello(frame.hello)
        case "message":
            return Body(frame.message)
        case "metrics":
            return MetricsJson(frame.metrics)
        case "leaving":
            return Leaving(frame.leaving[:LEAVING_MAX])
        case _:
            raise FrameError("expected a frame of a peer, got an empty one")


def from_controller(frame: FromController) -> bytes:
    """The controller's frame as bytes."""
    match frame:
        case Welcome(job, config, shard, servers):
            welcome = pb.Welcome(job=job, config=config.model_dump_json(), shard=shard, servers=servers)
            packed = pb.FromController(welcome=welcome)
        case Body(encoded):
            packed = pb.FromController(message=encoded)
        case Refusal(field, expected, got, remedy):
            packed = pb.FromController(refusal=pb.Refusal(field=field, expected=expected, got=got, remedy=remedy))
        case Goodbye(reason, failed):
            packed = pb.FromController(goodbye=pb.Goodbye(reason=reason, failed=failed))
    return packed.SerializeToString()  # type: ignore[no-any-return]


def read_from_controller(raw: bytes) -> FromController:
    """Raises: FrameError when the bytes are no frame of a controller."""
    try:
        frame = pb.FromController.FromString(raw)
    except DecodeError:
        raise FrameError(f"expected a frame of proto/control.proto, got {len(raw)} other bytes") from None
    match frame.WhichOneof("frame"):
        case "welcome":
            return _read_welcome(frame.welcome)
        case "message":
            return Body(frame.message)
        case "refusal":
            refusal = frame.refusal
            return Refusal(refusal.field, refusal.expected, refusal.got, refusal.remedy)
        case "goodbye":
            return Goodbye(frame.goodbye.reason, frame.goodbye.failed)
        case _:
            raise FrameError("expected a frame of a controller, got an empty one")


def _pack_hello(hello: Hello) -> pb.Hello:
    return pb.Hello(
        role=_ROLES[hello.role],
        job=hello.job,
        wire_version_min=hello.wire_version_min,
        wire_version_max=hello.wire_version_max,
        rank=hello.rank,
        data_address=hello.data_address,
        numerics_id=hello.numerics_id,
        host=hello.host,
        pid=hello.pid,
        codecs=hello.codecs,
        release=hello.release,
        shard=hello.shard,
        machine=hello.machine,
        memory_available=hello.memory_available,
    )


def _read_hello(hello: pb.Hello) -> Hello:
    role = _ROLE_OF.get(int(hello.role))
    if role is None:
        raise FrameError(
            f"role: expected one of {', '.join(_ROLES)}, got {int(hello.role)}; run one release everywhere"
        )
    return Hello(
        role=role,
        job=hello.job,
        rank=hello.rank,
        data_address=hello.data_address,
        wire_version_min=hello.wire_version_min,
        wire_version_max=hello.wire_version_max,
        numerics_id=hello.numerics_id,
        host=hello.host,
        pid=hello.pid,
        codecs=tuple(hello.codecs),
        release=hello.release,
        shard=hello.shard if hello.HasField("shard") else -1,
        machine=hello.machine,
        memory_available=hello.memory_available,
    )


def _read_welcome(welcome: pb.Welcome) -> Welcome:
    if len(welcome.job) != JOB_BYTES:
        raise FrameError(f"Welcome.job: expected {JOB_BYTES} bytes, got {len(welcome.job)}")
    try:
        config = RunConfig.model_validate_json(welcome.config)
    except ValidationError as error:
        problem = error.errors()[0]
        raise FrameError(
            f"Welcome.config: expected a RunConfig of this release, got {problem['loc']}: {problem['msg']}"
        ) from None
    return Welcome(welcome.job, config, welcome.shard, dict(welcome.servers))
