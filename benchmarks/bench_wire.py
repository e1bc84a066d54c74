"""What a header costs: `wire.encode` and `wire.decode` beside bare MessagePack of the same fields, unchecked.

`python -m benchmarks.bench_wire` prints every message class; the benchmarks time those that travel in every step, and
all classes once each.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from benchmarks.harness import Bench, Function, checksum
from ps import messages as m
from ps import wire
from ps.keyspace import Parameter
from ps.types import Clock, WorkerId

JOB = bytes(range(wire.JOB_BYTES))
SLICES = 64  # of one message: 256 MB of float32 in large parameters
IDS, NUMBERS = np.arange(SLICES), np.arange(SLICES) + 1_000
CODES = np.full(SLICES, m.Code.APPLIED, np.uint8)
RANK, CLOCK, INCARNATION = WorkerId(3), Clock(1_000), 2
SPECS = tuple(m.Spec.of(Parameter(f"layer{i}.weight", (512, 512), "float32")) for i in range(SLICES))

SAMPLES: tuple[Any, ...] = (
    m.Join(RANK, INCARNATION),
    m.Init(RANK, INCARNATION, IDS),
    m.Push(RANK, INCARNATION, CLOCK, 32.0, IDS, NUMBERS, NUMBERS),
    m.Tick(RANK, INCARNATION, CLOCK, IDS, NUMBERS, NUMBERS),
    m.Pull(RANK, INCARNATION, 2_000, 1_999, CLOCK, False, IDS, NUMBERS),
    m.Read(2_000, IDS),
    m.Leave(RANK, INCARNATION),
    m.Ask(RANK, INCARNATION, IDS, NUMBERS),
    m.Welcome(INCARNATION, False, CLOCK, IDS, NUMBERS, NUMBERS, IDS, NUMBERS),
    m.InitDone(IDS),
    m.Verdicts(INCARNATION, IDS, NUMBERS, CODES, NUMBERS),
    m.Gap(INCARNATION, IDS, NUMBERS),
    m.Ticked(INCARNATION, CLOCK, False),
    m.Values(2_000, IDS, NUMBERS, NUMBERS, 0.1, 0.25),
    m.Waiting(2_000, 5, RANK, 999, 0.5),
    m.LeaveDone(INCARNATION),
    m.Rejected(INCARNATION, "worker 3: expected its current incarnation, got 1; it was restarted", True),
    m.Enroll(RANK, False, 7),
    m.Enrolled(RANK, INCARNATION, 7, 4, "{}"),
    m.Register(RANK, INCARNATION, 0, SPECS),
    m.Registered(0, True, 1, IDS),
    m.Place(0, SPECS, 1, IDS),
    m.Probe(1),
    m.Placed(0, 1),
    m.Progress(RANK, INCARNATION, CLOCK),
    m.Committed(0, 1_000),
    m.CommittedByAll(1_000),
    m.Barrier(RANK, INCARNATION, 7, True),
    m.BarrierOpen(7),
    m.Stop("all workers are done", False),
    m.Lost(RANK, INCARNATION, True),
    m.Done(RANK, INCARNATION, ""),
    m.EpochDone(RANK, INCARNATION, 3),
    m.EpochEnd(3),
    m.Skipped(RANK, INCARNATION, 3, 128),
    m.Lease(RANK, INCARNATION, "data", 60_000, 10, 7, CLOCK, 512, False, 1e4, np.array([1_024]), np.array([1_536])),
    m.Leased("data", 7, 1_536, 2_048, 1_024, 1.0, 1.0, 0),
    m.Withheld("data", 7, CLOCK, RANK, 1_000, 0.5),
    m.SetLr(RANK, INCARNATION, 1, 0.01, CLOCK),
    m.LrSet(1),
    m.Rate(1, 0.01, CLOCK),
    m.Rest(1, RANK, True),
    m.Confirmed(0, 1),
    m.BatchReady(RANK, INCARNATION, 0),
    m.Log(RANK, INCARNATION, CLOCK, 0.0, ("loss", "accuracy"), (0.5, 0.75)),
)
STEP = (m.Push, m.Tick, m.Pull, m.Verdicts, m.Ticked, m.Values, m.Progress, m.Log)  # these travel in every step


def samples(*classes: type[Any]) -> Sequence[Any]:
    """The sample of each class; of all classes without one."""
    assert {type(body) for body in SAMPLES} == set(wire.CODES.values()), "a message class has no sample here"
    return [body for body in SAMPLES if not classes or type(body) in classes]


def fields(body: Any) -> list[Any]:
    """What MessagePack is given for a message: builtin types only."""
    unpacked: list[Any] = msgpack.unpackb(wire.encode(JOB, body), use_list=True)
    return unpacked


def encode(*classes: type[Any]) -> Function:
    """Messages to headers, one each."""

    def bench_encode(bench: Bench) -> None:
        times, bodies, headers = bench.size(smoke=1, full=2_000 // len(samples(*classes))), samples(*classes), []
        with bench.timed(events=times * len(bodies)):
            for _ in range(times):
                headers = [wire.encode(JOB, body) for body in bodies]
        bench.check(checksum(*headers))

    return bench_encode


def decode(*classes: type[Any]) -> Function:
    """Headers to bodies, every field checked."""

    def bench_decode(bench: Bench) -> None:
        times, bodies = bench.size(smoke=1, full=2_000 // len(samples(*classes))), []
        headers = [wire.encode(JOB, body) for body in samples(*classes)]
        with bench.timed(events=times * len(headers)):
            for _ in range(times):
                bodies = [wire.decode(header, JOB) for header in headers]
        bench.check(checksum(*(wire.encode(JOB, *body) for body in bodies)))

    return bench_decode


def bare(*classes: type[Any]) -> Function:
    """The limit of both: MessagePack packs the same fields and unpacks them again."""

    def bench_bare(bench: Bench) -> None:
        times, headers = bench.size(smoke=1, full=2_000 // len(samples(*classes))), []
        lists = [fields(body) for body in samples(*classes)]
        with bench.timed(events=times * len(lists)):
            for _ in range(times):
                headers = [msgpack.packb(values) for values in lists]
                lists = [msgpack.unpackb(header, strict_map_key=True, use_list=True) for header in headers]
        bench.check(checksum(*headers))

    return bench_bare


bench_bare_push, bench_encode_push, bench_decode_push = bare(m.Push), encode(m.Push), decode(m.Push)
bench_bare_pull, bench_encode_pull, bench_decode_pull = bare(m.Pull), encode(m.Pull), decode(m.Pull)
bench_bare_values, bench_encode_values, bench_decode_values = bare(m.Values), encode(m.Values), decode(m.Values)
bench_bare_progress, bench_encode_progress = bare(m.Progress), encode(m.Progress)
bench_decode_progress = decode(m.Progress)
bench_bare_place, bench_encode_place, bench_decode_place = bare(m.Place), encode(m.Place), decode(m.Place)
bench_bare_step, bench_encode_step, bench_decode_step = bare(*STEP), encode(*STEP), decode(*STEP)
bench_bare_every, bench_encode_every, bench_decode_every = bare(), encode(), decode()


def best_us(do: Any) -> float:
    """Microseconds of one call: the best of seven runs of about 10 ms."""
    timer = timeit.Timer(do)
    number = max(1, int(0.01 / max(timer.timeit(1), 1e-7)))
    return min(timer.repeat(7, number)) / number * 1e6


def main() -> int:
    """The table of all classes."""
    print("message           bytes  encode us  packb us   ratio  decode us  unpackb us   ratio")
    for body in samples():
        header, plain = wire.encode(JOB, body), fields(body)
        packs = best_us(lambda b=body: wire.encode(JOB, b)), best_us(lambda p=plain: msgpack.packb(p))
        unpacks = best_us(lambda h=header: wire.decode(h, JOB)), best_us(lambda h=header: msgpack.unpackb(h))
        print(
            f"{type(body).__name__:<16}{len(header):>7}{packs[0]:>11.2f}{packs[1]:>10.2f}{packs[0] / packs[1]:>8.1f}"
            f"{unpacks[0]:>11.2f}{unpacks[1]:>12.2f}{unpacks[0] / unpacks[1]:>8.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
