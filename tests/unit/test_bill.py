"""The memory bill against the rows of docs/memory.md, worked out by hand."""

from __future__ import annotations

import pytest

from ps.bill import bill_of
from ps.config import RunConfig
from ps.keyspace import Keyspace, Options, Parameter, empty_map, place

N = 4 * 4096 * 256  # bytes of the matrix
ONEBIT = 16 + 4096 * 256 // 512 * (8 + 64)  # algorithms: 16 + C (8 + 4 ceil(R / 32)), groups of 512


def billed(parameters: list[Parameter], **options: object) -> tuple[int, int, int]:
    config, keyspace = RunConfig.check(options), Keyspace()
    keyspace.extend(parameters)
    shards = place(keyspace.slices, empty_map(config.servers)).shard_S.tolist()
    bill = bill_of(config, keyspace.slices, shards)
    assert bill.values == sum(item.nbytes for item in keyspace.slices)
    return sum(bill.servers), bill.worker, len(bill.servers)


MATRIX = Parameter("w", (4096, 256), "float32")


@pytest.mark.parametrize(
    ("options", "servers", "worker"),
    [
        ({"consistency": "bsp"}, N + N, N),  # values, the round's frame; the frame
        ({"consistency": "bsp", "workers": 2, "optimizer": "adam:lr=1"}, N + 2 * N + 2 * N, N),
        ({"consistency": "bsp", "workers": 2, "on_worker_loss": "wait"}, N + N + 2 * N, N),
        ({"consistency": "async", "workers": 3}, N, N),
        ({"consistency": "async", "workers": 3, "optimizer": "dcasgd+sgd:lr=1"}, N + 3 * N, N),
        ({"consistency": "ssp:staleness=3"}, N, N + 2 * N),  # a replica, frames of two clocks
        ({"consistency": "downpour:push_every=2,pull_every=2"}, N, 3 * N),  # replica, sum, frame
        ({"consistency": "local:every=5", "optimizer": "nesterov:lr=1,decay=0.9"}, 3 * N, 3 * N),  # replica, as pulled
        ({"consistency": "local:every=8,fragments=2,overlap=1"}, 2 * N, 3 * N + N // 2),  # what waits for its clock
        ({"push_compression": "onebit"}, N + ONEBIT, N + ONEBIT),  # a residual
        ({"push_compression": "onebit:warmup=9"}, N + N, N + N),
        ({"push_compression": "dgc"}, None, 2 * N),  # two residuals; the frame is as long as its first stage
        ({"compression": "onebit"}, 2 * N + ONEBIT, 2 * N + ONEBIT),  # one view for all, and the worker's
        ({"consistency": "async", "workers": 2, "compression": "onebit"}, 3 * N, 2 * N + ONEBIT),  # a view each
    ],
)  # fmt: skip
def test_one_matrix(options: dict[str, object], servers: int | None, worker: int) -> None:
    got = billed([MATRIX], **options)
    if servers is None:
        assert worker < got[1] < worker + N
    else:
        assert got[:2] == (servers, worker)


def test_halves_are_floats_on_servers_and_what_is_not_trained_is_only_stored() -> None:
    half, frozen = Parameter("h", (4096, 256), "bfloat16"), Parameter("f", (4096, 256), "float32", Options(frozen=True))
    assert billed([half])[:2] == (2 * N, N)
    assert billed([frozen], optimizer="adam:lr=1")[:2] == (N, 0)


def test_every_shard_has_its_own_share() -> None:
    config, keyspace = RunConfig.check({"servers": 2}), Keyspace()
    keyspace.extend([MATRIX, Parameter("v", (4096, 256), "float32"), Parameter("u", (1024, 8), "float32")])
    bill = bill_of(config, keyspace.slices, [0, 1, 1])
    assert bill.servers == (2 * N, 2 * N + 2 * 4 * 8192)
    assert str(bill) == (
        "2.1 M parameters, 8 MiB; servers 8 MiB each; each worker 8 MiB beside its script's own values and gradients"
    )


def test_replies_under_way_may_come_to_the_servers_share() -> None:
    keyspace = Keyspace()
    keyspace.extend([MATRIX])
    config = RunConfig.check({"consistency": "async", "workers": 3})
    bill = bill_of(config, keyspace.slices, [0])
    assert bill.servers == (N,) and bill.replies == (2 * N,)
    assert "server 4 MiB, and up to 8 MiB for replies under way;" in str(bill)
    assert bill_of(RunConfig.check({"workers": 3}), keyspace.slices, [0]).replies == (0,)
