"""Kernels, one thread: GB/s of the traffic that cannot be avoided, and the share of a triad a = b + s * c of that size.

Each in the cache (64 Ki elements, so small that Python's call shows) and in memory (16 Mi). `PS_KERNELS` picks who
computes; the rows `..._twin` are NumPy whatever it says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from benchmarks.harness import Bench, checksum, seeded_normal
from ps import kernels
from ps.kernels import dispatch, onebit, updates
from ps.types import Array, Float32

GROUP, BLOCK = 512, 512  # elements
WORKERS = 4  # frames in a mean
HEADER_BYTES = 16  # of a frame: what stands behind it is aligned to no more
TOP = 0.01  # share of the elements


class Work(NamedTuple):
    """One call of a kernel, the bytes that it cannot but read and write, and what it wrote."""

    call: Callable[[], object]
    bytes_moved: int
    written: tuple[Array, ...]


def in_cache_and_in_memory(build: Callable[[int], Work]) -> None:
    """Makes `bench_NAME_cache` and `bench_NAME_memory` of a function that prepares NAME for n elements."""
    for place, n, calls in (("cache", 64 * 1024, 300), ("memory", 16 * 1024 * 1024, 3)):

        def bench_kernel(bench: Bench, place: str = place, n: int = n, calls: int = calls) -> None:
            work = build(bench.size(smoke=1_000, full=n))  # elements
            work.call()  # maps the pages
            repeats = bench.size(smoke=1, full=calls)  # calls
            with bench.timed(bytes_moved=work.bytes_moved * repeats, against=f"kernels/triad_{place}"):
                for _ in range(repeats):
                    work.call()
            bench.check(checksum(*work.written))

        globals()[f"bench_{build.__name__}_{place}"] = bench_kernel


@cache
def normal(n: int, seed: int = 0) -> Float32:
    """Shared by all rows: read only."""
    x = seeded_normal(n, seed)
    x.setflags(write=False)
    return x


def frame_body(size: int) -> Array:
    return np.zeros(HEADER_BYTES + size, np.uint8)[HEADER_BYTES:]


def _triad_twin(b: Float32, c: Float32, out: Float32, factor: float) -> None:
    """Two passes: without the native module there is no honest raw line, only this one."""
    np.multiply(c, np.float32(factor), out=out)
    np.add(out, b, out=out)


@in_cache_and_in_memory
def triad(n: int) -> Work:
    out = np.zeros(n, np.float32)
    run = _triad_twin if dispatch._native is None else dispatch._native.triad
    return Work(lambda: run(normal(n), normal(n, 1), out, 0.5), 12 * n, (out,))


@in_cache_and_in_memory
def sgd(n: int) -> Work:
    w = normal(n).copy()
    return Work(lambda: kernels.sgd(w, normal(n, 1), w, 1e-3, 0.0), 12 * n, (w,))


@in_cache_and_in_memory
def momentum(n: int) -> Work:
    w, v = normal(n).copy(), np.zeros(n, np.float32)
    return Work(lambda: kernels.momentum(w, normal(n, 1), v, w, 1e-3, 0.0, 0.9), 20 * n, (w, v))


@in_cache_and_in_memory
def adagrad(n: int) -> Work:
    w, square = normal(n).copy(), np.zeros(n, np.float32)
    return Work(lambda: kernels.adagrad(w, normal(n, 1), square, w, 1e-3, 0.0, 1e-8), 20 * n, (w, square))


def _adam(n: int, run: Callable[..., None]) -> Work:
    w, m, v = normal(n).copy(), np.zeros(n, np.float32), np.zeros(n, np.float32)
    rest = (1e-3, 0.0, False, 0.9, 0.999, 1e-8, 0.1, 0.001)
    return Work(lambda: run(w, normal(n, 1), m, v, w, *rest), 28 * n, (w, m, v))


@in_cache_and_in_memory
def adam(n: int) -> Work:
    return _adam(n, kernels.adam)


@in_cache_and_in_memory
def adam_twin(n: int) -> Work:
    return _adam(n, updates.adam)


def _onebit_encode(n: int, run: Callable[..., None]) -> Work:
    records, residual = frame_body(-(-n // GROUP) * (8 + GROUP // 8)), np.zeros(n, np.float32)
    call = lambda: run(normal(n), residual, GROUP, False, records)  # noqa: E731
    return Work(call, 12 * n + records.size, (residual, records))


@in_cache_and_in_memory
def onebit_encode(n: int) -> Work:
    return _onebit_encode(n, kernels.onebit_encode)


@in_cache_and_in_memory
def onebit_encode_twin(n: int) -> Work:
    return _onebit_encode(n, onebit.onebit_encode)


def _onebit_decode_add(n: int, run: Callable[..., None]) -> Work:
    records, out = frame_body(-(-n // GROUP) * (8 + GROUP // 8)), np.zeros(n, np.float32)
    kernels.onebit_encode(normal(n), None, GROUP, False, records)
    return Work(lambda: run(records, GROUP, out, 0.5), 8 * n + records.size, (out,))


@in_cache_and_in_memory
def onebit_decode_add(n: int) -> Work:
    return _onebit_decode_add(n, kernels.onebit_decode_add)


@in_cache_and_in_memory
def onebit_decode_add_twin(n: int) -> Work:
    return _onebit_decode_add(n, onebit.onebit_decode_add)


@in_cache_and_in_memory
def onebit_mean(n: int) -> Work:
    frames, out = [frame_body(-(-n // GROUP) * (8 + GROUP // 8)) for _ in range(WORKERS)], np.zeros(n, np.float32)
    for seed, records in enumerate(frames):
        kernels.onebit_encode(normal(n, seed % 2), None, GROUP, False, records)
    call = lambda: kernels.onebit_mean(frames, [1.0] * WORKERS, float(WORKERS), GROUP, out)  # noqa: E731
    return Work(call, 4 * n + sum(records.size for records in frames), (out,))


@in_cache_and_in_memory
def onebit_move(n: int) -> Work:
    records, view = frame_body(-(-n // GROUP) * (8 + GROUP // 8)), np.zeros(n, np.float32)
    call = lambda: kernels.onebit_move(normal(n), view, GROUP, False, records)  # noqa: E731
    return Work(call, 12 * n + records.size, (view, records))


@in_cache_and_in_memory
def sign_encode(n: int) -> Work:
    records, residual = frame_body(-(-n // GROUP) * (4 + GROUP // 8)), np.zeros(n, np.float32)
    call = lambda: kernels.sign_encode(normal(n), residual, GROUP, records)  # noqa: E731
    return Work(call, 12 * n + records.size, (residual, records))


@in_cache_and_in_memory
def int8_encode(n: int) -> Work:
    body, residual = frame_body(-(-n // BLOCK) * 4 + n), np.zeros(n, np.float32)
    call = lambda: kernels.int8_encode(normal(n), residual, BLOCK, body)  # noqa: E731
    return Work(call, 12 * n + body.size, (residual, body))


@in_cache_and_in_memory
def int8_decode_add(n: int) -> Work:
    body, out = frame_body(-(-n // BLOCK) * 4 + n), np.zeros(n, np.float32)
    kernels.int8_encode(normal(n), None, BLOCK, body)
    return Work(lambda: kernels.int8_decode_add(body, BLOCK, out, 0.5), 8 * n + body.size, (out,))


@in_cache_and_in_memory
def fp16_encode(n: int) -> Work:
    body, residual = frame_body(-(-n // kernels.HALF_BLOCK) * 4 + 2 * n), np.zeros(n, np.float32)
    call = lambda: kernels.half_encode(normal(n), residual, kernels.HALF_BLOCK, body)  # noqa: E731
    return Work(call, 12 * n + body.size, (residual, body))


@in_cache_and_in_memory
def fp16_decode_add(n: int) -> Work:
    body, out = frame_body(-(-n // kernels.HALF_BLOCK) * 4 + 2 * n), np.zeros(n, np.float32)
    kernels.half_encode(normal(n), None, kernels.HALF_BLOCK, body)
    call = lambda: kernels.half_decode_add(body, kernels.HALF_BLOCK, out, 0.5)  # noqa: E731
    return Work(call, 8 * n + body.size, (out,))


@in_cache_and_in_memory
def topk_select(n: int) -> Work:
    index = np.zeros(int(TOP * n), np.uint32)
    return Work(lambda: kernels.largest(normal(n), index), 4 * n + index.nbytes, (index,))


@in_cache_and_in_memory
def all_finite(n: int) -> Work:
    return Work(lambda: kernels.all_finite(normal(n)), 4 * n, (np.array([kernels.all_finite(normal(n))]),))
