"""What travels and how long it takes, dense, as factors or encoded: pure formulas, and the choice that follows.

M x N is the layer's matrix, K the rows of its factors, P1 the workers, P2 the servers. Source of what is said of
factors: Project Adam (Chilimbi et al., OSDI 2014) and Poseidon (Zhang et al., USENIX ATC 2017, table 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

FRAME_HEADER_BYTES = 16
FLOAT_BYTES = 4

# What one core does of `kernels.factors_add`; measured: 70 to 130 G with AVX2 or AVX-512, 6 to 16 G as NumPy twin.
SERVER_FLOPS = {True: 6e10, False: 6e9}  # with native kernels; without


@dataclass(frozen=True)
class Machine:
    """What the choice of a scheme reckons with; defaults stand for whatever is not measured (see ps.worker.probe).

    `server_flops`: of one server, a multiplication and an addition counted as two.
    """

    link_bytes_per_s: float = 1e9 / 8  # 1 Gbit/s
    server_flops: float = SERVER_FLOPS[False]


def link_s(nbytes: int, link_bytes_per_s: float) -> float:
    """Seconds of one direction of a link: bytes / bandwidth."""
    return nbytes / link_bytes_per_s


# ---- one push -----------------------------------------------------------------------------------------------------


def factor_bytes(k: int, m: int, n: int, shards: int, slices: int) -> int:
    """Buffers of one push as factors: 4 K (M + P2 N), and a header per slice.

    The rows are cut over `shards` servers into `slices` runs: each takes its columns of U (K x M) and, once per shard,
    all of V (K x N).
    """
    return FRAME_HEADER_BYTES * slices + FLOAT_BYTES * k * (m + shards * n)


def multiply_s(k: int, m: int, n: int, shards: int, machine: Machine) -> float:
    """Seconds of the servers' multiplication, 2 K M N / F: each of the `shards` multiplies its rows, all at once."""
    return 2 * k * m * n / (shards * machine.server_flops)


class Choice(NamedTuple):
    """Both costs of one push, and the cheaper scheme; dense where they are equal."""

    scheme: Literal["dense", "factors"]
    dense_bytes: int
    factor_bytes: int
    dense_s: float
    factor_s: float


def best_scheme(
    k: int, m: int, n: int, *, shards: int, slices: int, dense_bytes: int, machine: Machine = Machine()
) -> Choice:
    """Factors to the server where transfer and multiplication together take less time than the dense frames.

    With raw dense frames and one shard that is 4 (M N - K (M + N)) / BW > 2 K M N / F. dense_bytes: of the frames that
    would travel instead, as encoded.
    """
    nbytes = factor_bytes(k, m, n, shards, slices)
    dense_s = link_s(dense_bytes, machine.link_bytes_per_s)
    factor_s = link_s(nbytes, machine.link_bytes_per_s) + multiply_s(k, m, n, shards, machine)
    return Choice("factors" if factor_s < dense_s else "dense", dense_bytes, nbytes, dense_s, factor_s)


# ---- one step of a whole cluster ----------------------------------------------------------------------------------


class Moved(NamedTuple):
    """Elements (x 4: bytes) that one step of one layer moves, in and out together, through the busiest node."""

    server: float
    worker: float
    both: float  # a node that is worker and server at once


def dense_moved(m: int, n: int, workers: int, servers: int) -> Moved:
    """Gradients in, values out: 2 P1 M N / P2 | 2 M N | 2 M N (P1 + P2 - 2) / P2."""
    return Moved(2 * workers * m * n / servers, 2 * m * n, 2 * m * n * (workers + servers - 2) / servers)


def broadcast_moved(k: int, m: int, n: int, workers: int) -> Moved:
    """Sufficient-factor broadcasting (SFB), worker to worker, without a server: 2 K (P1 - 1) (M + N)."""
    each = 2 * k * (workers - 1) * (m + n)
    return Moved(0, each, each)


def adam_moved(k: int, m: int, n: int, workers: int) -> Moved:
    """Factors in, values out (Adam), the layer on one server.

    P1 M N + P1 K (M + N) | K (M + N) + M N | (P1 - 1) (M N + K M + K N).
    """
    one = m * n + k * (m + n)
    return Moved(workers * one, one, (workers - 1) * one)


def poseidon_scheme(k: int, m: int, n: int, workers: int, servers: int) -> Literal["sfb", "ps"]:
    """Poseidon's BestScheme of a fully connected layer: SFB iff 2 K (P1-1) (M+N) <= 2 M N (P1+P2-2) / P2.

    With P1 = P2 = P: iff P <= 2 M N / (K (M + N)); of 4096 x 4096 with K = 32, up to P = 128. In integers, exact.
    """
    broadcast, dense = k * (workers - 1) * (m + n) * servers, m * n * (workers + servers - 2)
    return "sfb" if broadcast <= dense else "ps"


# ---- compression --------------------------------------------------------------------------------------------------

# Bytes of float32 per second that one core encodes, with what the residual costs, and decodes: onebit, out of cache.
CODEC_BYTES_PER_S = {True: (8e9, 15e9), False: (0.7e9, 1.0e9)}  # with native kernels; as NumPy twins


def encoded_s(dense_bytes: int, encoded_bytes: int, link_bytes_per_s: float, native: bool) -> float:
    """Seconds of one clock both ways, encoded: 2 (encoded / bandwidth + dense / encoder + dense / decoder)."""
    encoder, decoder = CODEC_BYTES_PER_S[native]
    return 2 * (link_s(encoded_bytes, link_bytes_per_s) + dense_bytes / encoder + dense_bytes / decoder)
