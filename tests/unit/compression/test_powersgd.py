"""Rank-r frames: the invariants of the reference, 2.6."""

from __future__ import annotations

import numpy as np
import pytest

from ps.kernels import lowrank
from ps.types import Float32, UInt8
from tests.unit.compression.helpers import codec_of, decoded, encode, fresh, normal, residual

M, N = 40, 30


def low_rank(rank: int, scale: float = 1.0) -> Float32:
    left, right = normal(M * rank, 1).reshape(M, rank), normal(N * rank, 2).reshape(N, rank)
    return (left @ right.T).reshape(-1) * np.float32(scale)


def factors(frame: UInt8, rank: int) -> tuple[Float32, Float32]:
    values = frame[16:].view(np.float32)
    return values[: M * rank].reshape(M, rank), values[M * rank :].reshape(N, rank)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e25])
def test_a_matrix_of_that_rank_is_exact(rank: int, scale: float) -> None:
    codec, c_N = codec_of(f"powersgd:rank={rank}"), low_rank(rank, scale)
    frame, memory = fresh(codec, c_N, M)
    assert frame.size == 16 + 4 * rank * (M + N)
    top = np.abs(c_N).max()
    assert np.abs(decoded(codec, frame, M * N) - c_N).max() <= 1e-5 * top
    assert np.abs(residual(memory)).max() <= 1e-5 * top


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_p_is_orthonormal_and_the_rank_is_kept(rank: int) -> None:
    codec = codec_of(f"powersgd:rank={rank}")
    frame, _ = fresh(codec, normal(M * N), M)
    p_MR, _ = factors(frame, rank)
    assert np.allclose(p_MR.T @ p_MR, np.eye(rank), atol=1e-5)
    assert np.linalg.matrix_rank(decoded(codec, frame, M * N).reshape(M, N).astype(np.float64), tol=1e-4) == rank


def test_lower_rank_than_asked_for_leaves_zero_columns_and_no_nan() -> None:
    codec = codec_of("powersgd:rank=4")
    memory = codec.memory(M, N, 7)
    row, column = np.arange(M)[:, None], np.arange(N)[None, :]
    exact_N = ((row % 3 - 1) * (column % 5 - 2) + (row % 7 - 3) * (column % 2)).astype(np.float32).reshape(-1)  # rank 2
    for _ in range(3):
        residual(memory).fill(0)  # its rounding errors have full rank
        frame = encode(codec, exact_N, memory)
        p_MR, _ = factors(frame, 4)
        assert np.allclose(np.diag(p_MR.T @ p_MR), [1, 1, 0, 0], atol=1e-5)
    assert memory.arrays["q"].any(axis=0).all()  # a later gradient of full rank finds four directions
    p_MR, _ = factors(encode(codec, normal(M * N), memory), 4)
    assert np.allclose(p_MR.T @ p_MR, np.eye(4), atol=1e-5)


def test_zeros_stay_zero_and_do_not_end_it() -> None:
    codec = codec_of("powersgd:rank=2")
    memory = codec.memory(M, N)
    frame = encode(codec, np.zeros(M * N, np.float32), memory)
    assert not frame[16:].any() and not residual(memory).any()
    assert np.allclose(decoded(codec, encode(codec, low_rank(2), memory), M * N), low_rank(2), atol=1e-4)


def test_a_huge_matrix_gives_finite_factors() -> None:
    codec = codec_of("powersgd:rank=2")
    frame, memory = fresh(codec, np.full(M * N, 3e38, np.float32), M)  # its column norm is no float32
    got_N = decoded(codec, frame, M * N)
    assert (got_N > 0).all() and np.isfinite(got_N).all() and np.isfinite(residual(memory)).all()


def test_warm_start_finds_the_leading_directions() -> None:
    left, _, right = np.linalg.svd(normal(M * N).reshape(M, N).astype(np.float64))
    energy = np.array([10.0, 8.0, *[1.0] * 28])
    c_N = (left[:, :N] * energy @ right).astype(np.float32).reshape(-1)
    codec = codec_of("powersgd:rank=2,error_feedback=false")
    memory, best = codec.memory(M, N), np.sqrt(28.0)
    errors = [float(np.linalg.norm(decoded(codec, encode(codec, c_N, memory), M * N) - c_N)) for _ in range(6)]
    assert errors[0] > 1.05 * best and errors[-1] == pytest.approx(best, rel=1e-3)


def test_error_feedback_sends_everything_in_the_end() -> None:
    codec, c_N, steps = codec_of("powersgd:rank=4"), normal(M * N), 200
    memory, sent_N = codec.memory(M, N), np.zeros(M * N)
    for _ in range(steps):
        sent_N += decoded(codec, encode(codec, c_N, memory), M * N)
    assert np.linalg.norm(sent_N / steps - c_N) < 0.1 * np.linalg.norm(c_N)


def test_pieces_change_the_factors_by_rounding_only_and_their_product_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec, c_N = codec_of("powersgd:rank=3"), normal(M * N)
    frame, memory = fresh(codec, c_N, M)
    got_N = decoded(codec, frame, M * N)
    monkeypatch.setattr(lowrank, "PIECE", 64)
    assert np.array_equal(decoded(codec, frame, M * N), got_N)
    again, memory_again = fresh(codec, c_N, M)
    assert np.allclose(again[16:].view(np.float32), frame[16:].view(np.float32), atol=1e-5)
    assert np.allclose(residual(memory_again), residual(memory), atol=1e-5)


@pytest.mark.parametrize(("rows", "columns", "thin"), [(40, 30, True), (8, 8, False), (9, 9, True), (1, 5000, False)])
def test_factors_only_where_they_are_shorter(rows: int, columns: int, thin: bool) -> None:
    codec, c_N = codec_of("powersgd:rank=2"), normal(rows * columns)
    frame, memory = fresh(codec, c_N, rows)
    assert frame.size == 16 + (8 * (rows + columns) if thin else 4 * rows * columns)
    assert (2 * 2 * (rows + columns) < rows * columns) == thin == ("q" in memory.arrays)
    if not thin:
        assert np.array_equal(decoded(codec, frame, c_N.size), c_N) and not residual(memory).any()
