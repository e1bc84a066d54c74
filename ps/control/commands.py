"""Questions of commands to a controller, from a plain thread: what the cluster is doing, and to end it."""

from __future__ import annotations

import json
from typing import Any

from ps.control import control_pb2 as pb
from ps.control.other_key import check_key
from ps.control.rpc import SERVICE, channel, grpc
from ps.errors import ConfigError, DeadlineError
from ps.key import Key

ASK_S = 5.0  # a controller that is there answers within milliseconds


def fetch_status(address: str, timeout_s: float = ASK_S, key: Key | None = None) -> dict[str, Any]:
    """What the controller at "host:port" says of its cluster: see `ControlServer.status`. Raises: as `_ask`."""
    status: dict[str, Any] = json.loads(pb.StatusReply.FromString(_ask(address, "Status", b"", timeout_s, key)).json)
    return status


def ask_stop(address: str, reason: str, failed: bool = False, timeout_s: float = ASK_S, key: Key | None = None) -> None:
    """Ends the job of the controller at "host:port": workers finish their clock first. Raises: as `_ask`."""
    _ask(address, "Stop", pb.StopRequest(reason=reason, failed=failed).SerializeToString(), timeout_s, key)


def check_address(what: str, address: str) -> str:
    """The address. Raises: ConfigError naming `what` unless it is host:port."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port[:6]) < 1 << 16):
        raise ConfigError(f"{what}: expected host:port of a controller, got {address!r}")
    return address


def _ask(address: str, method: str, request: bytes, timeout_s: float, key: Key | None) -> bytes:
    """Raises: DeadlineError naming the address when nobody answers; ConfigError when it is no controller, OtherKey when
    it has another key.
    """
    check_address("controller", address)
    with channel(address, key) as way:
        try:
            reply: bytes = way.unary_unary(f"/{SERVICE}/{method}")(request, timeout=timeout_s)
            return reply
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                check_key(address, key)
                raise DeadlineError(f"no controller answers at {address}; start it, or check the address") from None
            raise ConfigError(f"controller: expected one at {address}, got gRPC status {code.name}") from None
