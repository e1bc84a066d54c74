"""gRPC as the control plane uses it: imported here first, with its options."""

from __future__ import annotations

import os

from ps.wire import HEADER_BYTES_MAX

# gRPC's own handlers around fork() now and then hang the child, and training scripts fork (data loaders). Without them
# a forked child that leaves gRPC alone is safe, and ours does: a link refuses to be used there. Read when gRPC loads.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

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
