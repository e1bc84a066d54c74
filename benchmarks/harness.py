"""Runs every `bench_*` function of every `benchmarks/bench_*.py`: one code, two sizes.

    def bench_topk_encode(bench: Bench) -> None:
        grad_N = seeded_normal(bench.size(smoke=1_000, full=25_000_000))  # elements
        with bench.timed(bytes_moved=grad_N.nbytes):
            frame = compressor("topk:ratio=0.01").encode(grad_N)
        bench.check(checksum(frame.index_K, frame.value_K))

The function is called once in `smoke` (with the tests, so that it cannot rot) and REPEATS_FULL times in `full`; each
call times one block and hands in one checksum, which must be the same in every call: a faster wrong answer is no
speed-up. `raw/memcpy` runs first in every run, so that each rate also stands as a share of what this machine can do;
a function may name another line of the run as its raw limit.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import statistics
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ps.experiments.environment import git, processor
from ps.kernels import IN_USE

FOLDER = Path(__file__).resolve().parent
REPEATS_FULL = 7
RAW_LIMIT = "raw/memcpy"


class BenchError(Exception):
    """A benchmark broke the rules of this file, or its answers differ between repeats."""


@dataclass
class Bench:
    """What one call of a `bench_*` function is handed; it holds what that call measured."""

    full: bool
    sizes: list[int] = field(default_factory=list)
    seconds: float | None = None
    bytes_moved: int = 0
    events: int = 0
    against: str = RAW_LIMIT
    checksum: int | None = None

    def size(self, *, smoke: int, full: int) -> int:
        """The problem size of this run, in whatever unit the caller says in a comment."""
        self.sizes.append(full if self.full else smoke)
        return self.sizes[-1]

    @contextmanager
    def timed(self, *, bytes_moved: int = 0, events: int = 0, against: str = RAW_LIMIT) -> Iterator[None]:
        """Times its block. `bytes_moved` is payload, each byte counted once; `events` are pushes, messages, ...

        `against`: the benchmark whose rate in this run is the raw limit, where that is not a copy.
        """
        if self.seconds is not None:
            raise BenchError("expected one timed block in a call, got a second; make it a function of its own")
        self.bytes_moved, self.events, self.against = bytes_moved, events, against
        start = perf_counter()
        yield
        self.seconds = perf_counter() - start

    def check(self, checksum: int) -> None:
        """Hands in the checksum of the result. Call it outside the timed block."""
        self.checksum = checksum


@dataclass(frozen=True)
class Result:
    """One benchmark of one run. `rate` is bytes or events per second at the median time, 0 where neither was given."""

    name: str
    sizes: list[int]
    seconds: list[float]
    bytes_moved: int
    events: int
    checksum: int
    against: str = RAW_LIMIT

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        return (self.bytes_moved or self.events) / self.median_s


Function = Callable[[Bench], None]


def seeded_normal(size: int, seed: int = 0) -> NDArray[np.float32]:
    """The same standard normal numbers in every run."""
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def checksum(*parts: NDArray[Any] | bytes) -> int:
    """CRC-32 of the bytes of all parts in order."""
    crc = 0
    for part in parts:
        data = part if isinstance(part, bytes) else np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
        crc = zlib.crc32(data, crc)
    return crc


def themes() -> list[str]:
    """`compression` for each benchmarks/bench_compression.py."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def collect() -> dict[str, Function]:
    """`theme/name` -> function, for every benchmark there is: the raw limit first, then file by file."""
    found: dict[str, Function] = {}
    for theme in themes():
        module = importlib.import_module(f"benchmarks.bench_{theme}")
        for name, function in vars(module).items():
            if name.startswith("bench_") and inspect.isfunction(function) and function.__module__ == module.__name__:
                found[f"{theme}/{name.removeprefix('bench_')}"] = function
    return dict(sorted(found.items(), key=lambda item: item[0] != RAW_LIMIT))


def select(found: Mapping[str, Function], only: Sequence[str]) -> dict[str, Function]:
    """Those that `only` names by theme, function or both, and the raw limit. Raises: BenchError for an unknown name."""
    wanted = {RAW_LIMIT}
    for name in only:
        matches = {key for key in found if name in (key, *key.split("/"))}
        if not matches:
            raise BenchError(f"--only: expected a theme or one of {', '.join(found)}, got {name!r}")
        wanted |= matches
    return {key: function for key, function in found.items() if key in wanted or not only}


def measure(name: str, function: Function, *, full: bool) -> Result:
    """Calls the benchmark as often as the mode says. Raises: BenchError when a call broke the rules of this file."""
    seconds: list[float] = []
    last: Bench | None = None
    for _ in range(REPEATS_FULL if full else 1):
        bench = Bench(full)
        function(bench)
        if bench.seconds is None or bench.checksum is None:
            raise BenchError(f"{name}: expected one timed() block and one check(), got none of one of them")
        if last is not None and bench.checksum != last.checksum:
            raise BenchError(f"{name}: expected the checksum {last.checksum:08x} again, got {bench.checksum:08x}")
        seconds.append(bench.seconds)
        last = bench
    assert last is not None and last.checksum is not None
    return Result(name, last.sizes, seconds, last.bytes_moved, last.events, last.checksum, last.against)


def machine() -> dict[str, str]:
    """What a published figure must say about where it comes from."""
    return {
        "cpu": f"{processor()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernels": IN_USE,
        "commit": git(FOLDER, "describe", "--always", "--dirty", "--exclude=*") or "unknown",
    }


def row(result: Result, limit: Result | None) -> str:
    """One line of the table; `limit` is the raw limit of the same run."""
    times = "".join(f"{seconds * 1e3:11.3f}" for seconds in (result.median_s, min(result.seconds), max(result.seconds)))
    rate = share = ""
    if result.bytes_moved:
        rate = f"{result.rate / 1e9:.2f} GB/s"
        share = f"{result.rate / limit.rate:.3f}" if limit else ""
    elif result.events:
        rate = f"{result.rate:,.0f} /s"
    return f"{result.name:<40}{times}{rate:>16}{share:>10}  {result.checksum:08x}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Prints each line of the table as soon as it is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Runs the benchmarks of ps.")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one call each: do they still work?")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="a theme, a function, or both: a/b")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every time and checksum there, too")
    args = parser.parse_args(argv)
    try:
        chosen = select(collect(), args.only)
    except BenchError as error:
        parser.error(str(error))
    about = machine()
    print("\n".join(f"{key + ':':<8} {value}" for key, value in about.items()))
    heads = "".join(f"{head:>11}" for head in ("median ms", "min ms", "max ms"))
    print(f"\n{'benchmark':<40}{heads}{'rate':>16}{'x raw':>10}  checksum")
    results: dict[str, Result] = {}
    for name, function in chosen.items():
        results[name] = measure(name, function, full=not args.smoke)
        print(row(results[name], results.get(results[name].against)), flush=True)
    if args.json:
        rows = [{**vars(result), "median_s": result.median_s, "rate": result.rate} for result in results.values()]
        report = {"machine": about, "mode": "smoke" if args.smoke else "full", "results": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0
