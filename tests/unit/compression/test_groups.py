"""The sums that every codec and every native kernel must agree on."""

from __future__ import annotations

import numpy as np
import pytest

from ps.kernels import groups
from ps.types import Float
from tests.unit.compression.helpers import normal


def slow_sum(values: Float) -> float:
    """16 lanes, then halves, one addition at a time."""
    lanes = [0.0] * 16
    for i, value in enumerate(values.tolist()):
        lanes[i % 16] += value
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [lanes[i] + lanes[half + i] for i in range(half)]
    return lanes[0]


@pytest.mark.parametrize("length", [1, 3, 15, 16, 17, 33, 512, 1000])
def test_lane_sums_add_in_the_written_order(length: int) -> None:
    for count in (1, 2, 9):
        x_CR = (normal(count * length, length) * np.float32(1e8) ** normal(count * length, 1)).reshape(count, length)
        assert groups.lane_sums(x_CR).tolist() == [slow_sum(row) for row in x_CR]
        doubles = x_CR.astype(np.float64) ** 2
        assert groups.lane_sums(doubles).tolist() == [slow_sum(row) for row in doubles]


def test_lane_sums_of_minus_zero_are_plus_zero() -> None:
    assert not np.signbit(groups.lane_sums(np.full((2, 40), -0.0, np.float32))).any()


def test_zeros_of_either_sign_change_no_sum() -> None:
    x = normal(500)
    padded = np.zeros((1, 512), np.float32)
    padded[0, :500], padded[0, 500:] = x, -0.0
    assert groups.lane_sums(padded)[0] == slow_sum(x)


@pytest.mark.parametrize("n", [0, 1, 511, 512, 513, 100_000])
@pytest.mark.parametrize("group", [1, 5, 512, 70_000])
def test_pieces_cover_everything_once_in_whole_groups(n: int, group: int) -> None:
    at = list(groups.pieces(n, group))
    assert [i for e, _ in at for i in (e.start, e.stop)] == sorted(i for e, _ in at for i in (e.start, e.stop))
    assert sum(e.stop - e.start for e, _ in at) == n
    assert sum(g.stop - g.start for _, g in at) == -(-n // group)
    assert all(e.start == g.start * group for e, g in at)


def test_select_copies_bits() -> None:
    bit_CR = np.array([[True, False], [False, True]])
    low, high = np.array([-0.0, 1e-45], np.float32), np.array([3.0, -np.inf], np.float32)
    expected = np.array([[3.0, -0.0], [1e-45, -np.inf]], np.float32)
    assert groups.select(bit_CR, low, high).tobytes() == expected.tobytes()
