"""gRPC as the control plane uses it: imported here first, with its options, and mutual TLS where there is a key."""

from __future__ import annotations

import os
from typing import Any

from ps.key import NAME, Key
from ps.wire import HEADER_BYTES_MAX

# gRPC's own handlers around fork() now and then hang the child, and training scripts fork (data loaders). Without them
# a forked child that leaves gRPC alone is safe, and ours does: a link refuses to be used there. Read when gRPC loads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Below that it prints a line on stderr for each stranger that fails to shake hands.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc as grpc
from grpc import aio as aio

SERVICE = "ps.control.v1.Control"
FRAME_BYTES_MAX = HEADER_BYTES_MAX + (64 << 10)  # the largest message, and what the frame adds

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    # A cut of the network of up to 20 s ends no stream: gRPC takes the timeout for unacknowledged TCP data too.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # else keepalive stops on a stream that is silent for long
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),  # else the server ends a link for pinging too often
    ("grpc.so_reuseport", 0),  # else two controllers share one port, and peers reach either
    ("grpc.use_local_subchannel_pool", 1),  # else links of one process share a connection, and its end
    ("grpc.enable_http_proxy", 0),  # a proxy of the environment is for the web, not for the hosts of a cluster
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # peers are often started before their controller listens
)


def channel(address: str, key: Key | None) -> grpc.Channel:
    """To the controller at "host:port", for plain threads."""
    if key is None:
        return grpc.insecure_channel(address, options=OPTIONS)
    return grpc.secure_channel(address, _dialing(key), options=_TO_OURS)


def aio_channel(address: str, key: Key | None) -> aio.Channel:
    """The same for the control loop."""
    if key is None:
        return aio.insecure_channel(address, options=OPTIONS)
    return aio.secure_channel(address, _dialing(key), options=_TO_OURS)


def add_port(server: aio.Server, place: str, key: Key | None) -> int:
    """Listens there; the port, 0 when it cannot be had. With a key nobody gets in without it."""
    try:
        if key is None:
            return int(server.add_insecure_port(place))
        pairs = [(key.private_pem, key.certificate_pem)]
        trusted = grpc.ssl_server_credentials(pairs, key.certificate_pem, require_client_auth=True)
        return int(server.add_secure_port(place, trusted))
    except RuntimeError:
        return 0


_TO_OURS: tuple[tuple[str, int | str], ...] = (*OPTIONS, ("grpc.ssl_target_name_override", NAME))


def _dialing(key: Key) -> Any:
    return grpc.ssl_channel_credentials(key.certificate_pem, key.private_pem, key.certificate_pem)
