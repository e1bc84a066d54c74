"""The cost formulas against numbers worked out by hand, and the choice against both costs computed the long way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.cost import (
    Machine,
    Moved,
    adam_moved,
    best_scheme,
    broadcast_moved,
    dense_moved,
    factor_bytes,
    link_s,
    multiply_s,
    poseidon_scheme,
)

SIDE = st.integers(1, 1 << 14)
COUNT = st.integers(1, 300)


def test_bytes_of_one_push() -> None:
    """2048 x 1024 on two servers, K = 8: U once, V twice, two headers; dense are 8 MiB."""
    assert factor_bytes(8, 2048, 1024, shards=2, slices=2) == 2 * 16 + 4 * 8 * (2048 + 2 * 1024) == 131_104
    assert factor_bytes(0, 2048, 1024, shards=2, slices=2) == 32


@given(k=COUNT, m=SIDE, n=SIDE, shards=COUNT, slices=COUNT)
def test_bytes_are_those_of_every_shard_added_up(k: int, m: int, n: int, shards: int, slices: int) -> None:
    rows = [m // shards + (shard < m % shards) for shard in range(shards)]
    assert factor_bytes(k, m, n, shards, slices) == sum(4 * k * (r + n) for r in rows) + 16 * slices


def test_seconds() -> None:
    machine = Machine(link_bytes_per_s=1e8, server_flops=1e9)
    assert link_s(50_000_000, machine.link_bytes_per_s) == 0.5
    assert multiply_s(10, 1000, 1000, 2, machine) == 0.01


@given(
    k=st.integers(0, 5000), m=SIDE, n=SIDE, shards=st.integers(1, 8), extra=st.integers(0, 30),
    share=st.floats(0.01, 1.0), link=st.floats(1e6, 1e11), flops=st.floats(1e8, 1e14),
)  # fmt: skip
def test_the_choice_is_the_cheaper_of_both(
    k: int, m: int, n: int, shards: int, extra: int, share: float, link: float, flops: float
) -> None:
    dense_bytes, machine = int(4 * m * n * share), Machine(link, flops)
    choice = best_scheme(k, m, n, shards=shards, slices=shards + extra, dense_bytes=dense_bytes, machine=machine)
    seconds = {
        "dense": dense_bytes / link,
        "factors": (16 * (shards + extra) + 4 * k * m + 4 * k * n * shards) / link + 2 * k * m * n / shards / flops,
    }
    assert seconds[choice.scheme] <= min(seconds.values()) * (1 + 1e-12)
    assert choice[1:] == pytest.approx((dense_bytes, choice.factor_bytes, *seconds.values()))
    if choice.scheme == "factors" and share == 1.0:
        assert k < min(m, n), "else dense is shorter"


@given(k=COUNT, m=SIDE, n=SIDE)
def test_with_one_server_and_raw_slices_it_is_the_rule_of_adam(k: int, m: int, n: int) -> None:
    """4 (M N - K (M + N)) / BW > 2 K M N / F, but for the header; in integers, so that nothing rounds."""
    bandwidth, flops = 1 << 27, 1 << 33
    choice = best_scheme(
        k, m, n, shards=1, slices=1, dense_bytes=4 * m * n, machine=Machine(float(bandwidth), float(flops))
    )
    wins = (4 * (m * n - k * (m + n)) - 16) * flops > 2 * k * m * n * bandwidth
    assert (choice.scheme == "factors") == wins


def test_at_equal_cost_dense() -> None:
    never = Machine(server_flops=float("inf"))
    nbytes = factor_bytes(1, 8, 8, 1, 1)
    assert best_scheme(1, 8, 8, shards=1, slices=1, dense_bytes=nbytes, machine=never).scheme == "dense"
    assert best_scheme(1, 8, 8, shards=1, slices=1, dense_bytes=nbytes + 1, machine=never).scheme == "factors"


def test_an_empty_batch_costs_its_headers() -> None:
    assert best_scheme(0, 4, 4, shards=1, slices=1, dense_bytes=64).scheme == "factors"


def test_poseidon_check_value() -> None:
    """4096 x 4096, K = 32: broadcasting wins up to 128 nodes that are worker and server at once."""
    assert [poseidon_scheme(32, 4096, 4096, p, p) for p in (2, 127, 128, 129)] == ["sfb", "sfb", "sfb", "ps"]


@given(k=COUNT, m=SIDE, n=SIDE, nodes=st.integers(2, 2000))
def test_poseidon_equals_the_least_moved(k: int, m: int, n: int, nodes: int) -> None:
    broadcast, dense = broadcast_moved(k, m, n, nodes).both, dense_moved(m, n, nodes, nodes).both
    if broadcast != pytest.approx(dense):
        assert (poseidon_scheme(k, m, n, nodes, nodes) == "sfb") == (broadcast < dense)
    assert (poseidon_scheme(k, m, n, nodes, nodes) == "sfb") == (nodes * k * (m + n) <= 2 * m * n)


def test_table_of_elements_moved() -> None:
    """By hand, for M = 6, N = 4, K = 2, 3 workers, 2 servers."""
    assert dense_moved(6, 4, 3, 2) == Moved(72, 48, 72)
    assert broadcast_moved(2, 6, 4, 3) == Moved(0, 80, 80)
    assert adam_moved(2, 6, 4, 3) == Moved(132, 44, 88)
