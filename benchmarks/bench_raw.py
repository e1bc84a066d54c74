"""What the machine itself can do: the limit that the other figures are shown against."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Bench, checksum


def bench_memcpy(bench: Bench) -> None:
    source_N = np.arange(bench.size(smoke=8 * 1024, full=8 * 1024 * 1024), dtype=np.int64)  # elements; 64 MiB
    target_N = np.ones_like(
        source_N
    )  # written once, so that its pages are mapped: fresh pages cost far more than a copy
    with bench.timed(bytes_moved=source_N.nbytes):
        np.copyto(target_N, source_N)
    bench.check(checksum(target_N))
