"""Factors as a script gives them, and their frames: what is refused, and what bytes from anyone can do."""

from __future__ import annotations

import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps import factors
from ps.errors import ConfigError, FrameError
from ps.factors import Factors
from ps.keyspace import Parameter
from ps.types import Float32, UInt8

M, N = 6, 5
WEIGHTS = Parameter("w", (M, N), "float32")


def normal(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def some(k: int = 3) -> Factors:
    return Factors(normal(k, M, seed=1), normal(k, N, seed=2))


# ---- what a script gives --------------------------------------------------------------------------------------------


def test_the_product_stands_for_the_gradient() -> None:
    one = some()
    assert one.k == 3
    np.testing.assert_allclose(one.product(), sum(np.outer(one.u[k], one.v[k]) for k in range(3)), rtol=1e-5)
    assert some(0).product().tobytes() == np.zeros((M, N), np.float32).tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, ml_dtypes.bfloat16, ">f4"])
def test_any_real_numbers_are_taken(dtype: Any) -> None:
    u, v = np.arange(2 * M).reshape(2, M).astype(dtype), np.arange(2 * N).reshape(2, N).astype(dtype)
    fitted = Factors(u.tolist(), v).fitted(WEIGHTS)  # type: ignore[arg-type]
    assert fitted.u.dtype == fitted.v.dtype == np.float32
    assert (fitted.u == np.arange(2 * M).reshape(2, M)).all() and fitted.v.flags.c_contiguous
    assert Factors(u.T.copy().T, v).fitted(Parameter("w", (M, N), "float64")).u.dtype == np.float64


@pytest.mark.parametrize(
    ("u", "v"), [((3, N), (3, M)), ((3, M), (2, N)), ((M,), (N,)), ((3, M, 1), (3, N)), ((3, M), (3, N + 1))]
)
def test_wrong_shapes_are_named(u: tuple[int, ...], v: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        Factors(np.zeros(u), np.zeros(v)).fitted(WEIGHTS)
    assert str(error.value) == f"push of 'w': expected factors of shapes (K, {M}) and (K, {N}), got {u} and {v}"


@pytest.mark.parametrize("shape", [(), (M * N,), (M, N, 1)])
def test_only_matrices_have_factors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"push of 'w': expected an array, not factors: its shape is \("):
        some().fitted(Parameter("w", shape, "float32"))


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"push of 'w': expected factors of real numbers, got dtype complex64"):
        Factors(np.zeros((2, M), np.complex64), np.zeros((2, N))).fitted(WEIGHTS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("place", ["u", "v"])
def test_what_may_overflow_is_not_safe(bad: float, place: str) -> None:
    assert some().is_safe and some(0).is_safe
    one = some()
    getattr(one, place)[1, 2] = bad
    assert not one.is_safe


# ---- frames ---------------------------------------------------------------------------------------------------------


def frame_of(k: int = 3, first: int = 1, last: int = 5) -> tuple[UInt8, Float32]:
    return factors.encode(some(k), first, last), factors.shared(some(k))


@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_frame_holds_its_rows_and_the_formula_its_bytes(k: int) -> None:
    frame, v = frame_of(k)
    assert frame.nbytes == 16 + 4 * k * 4 and v.nbytes == 4 * k * N
    assert frame[:16].tobytes() == struct.pack("<BBHIQ", 11, 1, 0, k, 4 * N)
    assert frame[16:].tobytes() == some(k).u[:, 1:5].tobytes()
    factors.check(frame, v.view(np.uint8), 4, N)
    out = np.zeros(4 * N, np.float32)
    factors.decode_add(frame, v.view(np.uint8), out, 2.0)
    np.testing.assert_allclose(out.reshape(4, N), 2 * some(k).product()[1:5], rtol=1e-5, atol=1e-6)


def test_the_shared_factor_is_a_copy() -> None:
    one = some()
    v = factors.shared(one)
    one.v.fill(np.nan)
    assert np.isfinite(v).all()


@pytest.mark.parametrize(
    ("at", "bytes_", "text"),
    [
        (0, b"\x01", "codec: expected 11, got 1"),
        (1, b"\x02", "version: expected 1, got 2"),
        (2, b"\x01\x00", "flags: expected 0, got 1"),
        (4, struct.pack("<I", 2), "length: expected 48, got 64"),
        (4, struct.pack("<I", 6), "K: expected at most 5, got 6"),
        (4, struct.pack("<I", 2**32 - 1), "K: expected at most 5, got 4294967295"),
        (8, struct.pack("<Q", 21), "n: expected 20, got 21"),
        (16, struct.pack("<f", np.nan), r"U^T V: expected finite, got up to nan"),
        (16, struct.pack("<f", np.inf), r"U^T V: expected finite, got up to inf"),
        (16, struct.pack("<f", 3.4e38), r"U^T V: expected finite, got up to"),
    ],
)
def test_hostile_frames_are_named(at: int, bytes_: bytes, text: str) -> None:
    frame, v = frame_of()
    frame[at : at + len(bytes_)] = np.frombuffer(bytes_, np.uint8)
    with pytest.raises(FrameError) as error:
        factors.check(frame, v, 4, N)
    assert f"factors frame: {text}" in str(error.value)


def test_a_shared_factor_that_is_missing_or_of_another_length() -> None:
    frame, v = frame_of()
    with pytest.raises(FrameError, match="shared buffer: expected one, got none"):
        factors.check(frame, None, 4, N)
    for other in (v[:-1], np.empty(0, np.float32), v.view(np.uint8)[:-1], np.append(v, v)):
        with pytest.raises(FrameError, match=f"length of V: expected 60, got {other.nbytes}"):
            factors.check(frame, other, 4, N)
    with pytest.raises(FrameError, match="length: expected at least 16, got 15"):
        factors.check(frame[:15], v, 4, N)


def refusal(frame: UInt8, v: UInt8) -> str:
    try:
        factors.check(frame, v, 4, N)
    except FrameError as error:
        return str(error)
    return ""


@settings(max_examples=300)
@given(
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    cut=st.integers(-9, 9), in_v=st.booleans(), k=st.integers(0, 5),
)  # fmt: skip
def test_mutated_frames_are_refused_or_decode_to_numbers(
    edits: list[tuple[int, int]], cut: int, in_v: bool, k: int
) -> None:
    frame, v = frame_of(k)
    both = [frame.copy(), v.view(np.uint8).copy()]
    for at, byte in edits:
        if both[in_v].size:
            both[in_v][at % both[in_v].size] = byte
    if cut < 0:
        both[in_v] = both[in_v][:cut]
    elif cut > 5:
        both[in_v] = np.append(both[in_v], np.zeros(cut, np.uint8))
    if text := refusal(*both):
        assert "expected" in text and "got" in text
        return
    out = np.zeros(4 * N, np.float32)
    factors.decode_add(both[0], both[1], out, 1.0)
    assert np.isfinite(out).all()
