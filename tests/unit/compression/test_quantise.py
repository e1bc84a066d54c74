"""Stochastic levels (qsgd), linear bytes (int8), halves (fp16, bf16): the invariants of the reference, 2.3 and 2.4."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ps.kernels import quantise
from ps.types import Float32
from tests.unit.compression.helpers import codec_of, decoded, encode, fresh, normal, residual

D = 1000  # elements of one bucket


def draws(spec: str, grad_N: Float32, count: int) -> Float32:
    codec = codec_of(spec)
    memory = codec.memory(grad_N.size, 1, seed=4)
    return np.stack([decoded(codec, encode(codec, grad_N, memory), grad_N.size) for _ in range(count)])


@pytest.mark.parametrize(
    "spec", ["qsgd:bucket=1000,norm=l2", "qsgd:levels=1,bucket=1000,norm=l2", "qsgd:levels=16,bucket=1000"]
)
def test_qsgd_is_unbiased(spec: str) -> None:
    codec, grad_N = codec_of(spec), normal(D)
    draw_TN = draws(spec, grad_N, 400).astype(np.float64)
    unit = float(fresh(codec, grad_N)[0][16:20].view(np.float32)[0])
    chance_N = np.abs(grad_N, dtype=np.float64) / unit % 1
    often_N = (400 * chance_N > 5) & (400 * (1 - chance_N) > 5)  # rarer ones are not nearly normal
    sigma_N = unit * np.sqrt(chance_N * (1 - chance_N) / 400)
    z_N = ((draw_TN.mean(axis=0) - grad_N) / np.maximum(sigma_N, 1e-30))[often_N]
    assert z_N.size > 600 and np.abs(z_N).max() <= 5
    assert abs(z_N.mean()) <= 5 / np.sqrt(z_N.size) and z_N.std() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("levels", "variance", "bound"), [(1, 24.4, 31.6), (16, 0.65, 1.98)])
def test_qsgd_variance(levels: int, variance: float, bound: float) -> None:
    grad_N = normal(D)
    draw_TN = draws(f"qsgd:levels={levels},bucket=1000,norm=l2", grad_N, 100).astype(np.float64)
    ratio = np.square(draw_TN - grad_N).sum(axis=1).mean() / np.square(grad_N, dtype=np.float64).sum()
    assert ratio == pytest.approx(variance, rel=0.1) and ratio <= bound
    assert (draw_TN != 0).sum(axis=1).mean() <= levels * (levels + np.sqrt(D))


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("levels", [1, 2, 3, 7, 16, 127])
def test_qsgd_takes_one_of_the_two_levels_around(levels: int, norm: str) -> None:
    grad_N = normal(D)
    got_N = draws(f"qsgd:levels={levels},bucket=1000,norm={norm}", grad_N, 1)[0]
    size = np.linalg.norm(grad_N.astype(np.float64)) if norm == "l2" else np.abs(grad_N).max()
    unit = size / levels
    assert np.abs(got_N - grad_N).max() < unit * 1.001
    assert np.allclose(got_N / unit, np.rint(got_N / unit), atol=1e-3) and np.abs(got_N / unit).max() <= levels * 1.001
    assert not (np.sign(got_N) * np.sign(grad_N) < 0).any()


def test_qsgd_draws_differ_between_frames_and_elements() -> None:
    a, b = draws("qsgd:levels=1,bucket=1000,norm=l2", np.ones(D, np.float32), 2)
    assert (a != b).any() and np.unique(a).size == 2


@pytest.mark.parametrize("norm", ["l2", "max"])
def test_qsgd_never_passes_its_highest_level(norm: str) -> None:
    step = np.float32(1e-45)  # 10 / 7 rounds to one step: 10 would be level 10
    got_N = draws(f"qsgd:norm={norm}", np.array([10, -10, 0], np.float32) * step, 1)[0]
    assert np.abs(got_N).max() <= 14 * step and got_N[0] > 0 > got_N[1] and got_N[2] == 0


def test_uniforms_are_uniform_and_counted_from_the_index() -> None:
    key = quantise.random_key(3, 9)
    u = quantise.uniforms(key, 0, 100_000)
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    assert np.array_equal(quantise.uniforms(key, 777, 888), u[777:888])
    x = 12345 ^ key  # lowbias32, written out
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ x >> shift) * factor & 0xFFFFFFFF
    assert u[12345] == (x >> 8) / 2**24
    assert len({quantise.random_key(seed, encoded) for seed in range(50) for encoded in range(50)}) == 2500


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_pack_and_unpack(bits: int) -> None:
    for count in (0, 1, 7, 8, 9, 100):
        code = (np.arange(count) * 37 % (1 << bits)).astype(np.uint8)
        packed = np.empty(-(-count * bits // 8), np.uint8)
        quantise.pack(code, bits, packed)
        assert int.from_bytes(packed.tobytes(), "little") == sum(int(c) << (i * bits) for i, c in enumerate(code))
        assert np.array_equal(quantise.unpack(packed, bits, count), code)


def test_int8_error_is_at_most_half_a_step() -> None:
    codec, c_N = codec_of("int8:block=100"), normal(1000) * np.repeat(10.0 ** np.arange(-5, 5), 100).astype(np.float32)
    frame, memory = fresh(codec, c_N)
    got_N = decoded(codec, frame, 1000)
    for at in range(0, 1000, 100):
        c, got = c_N[at : at + 100], got_N[at : at + 100]
        top = np.abs(c).max()
        assert np.abs(residual(memory)[at : at + 100]).max() <= top / 254 * (1 + 1e-5)
        assert (np.diff(got[np.argsort(c)]) >= 0).all()  # monotone
        peak = int(np.abs(c).argmax())
        assert abs(got[peak] - c[peak]) <= 2.0**-22 * top


@pytest.mark.parametrize("value", [1e-45, 1e-43, 1e-40, 3.4028235e38])
def test_int8_at_the_ends_of_float32(value: float) -> None:
    codec = codec_of("int8")
    frame, memory = fresh(codec, np.array([value, -value, value / 3], np.float32))
    assert np.isfinite(decoded(codec, frame, 3)).all()
    assert np.abs(residual(memory)).max() <= value / 254 + 64 * 1.5e-45  # a scale rounds to a multiple of 2^-149


def test_int8_ties_round_to_even() -> None:
    frame, _ = fresh(codec_of("int8"), np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32))
    assert frame[20:].view(np.int8).tolist() == [127, 0, 2, 2, 0, -2]


@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e-6, 1.0, 1e6, 1e30, 1e38])
def test_fp16_keeps_eleven_bits_at_any_scale(scale: float) -> None:
    c_N = np.clip(normal(5000), -3, 3) * np.float32(scale)
    frame, _ = fresh(codec_of("fp16"), c_N)
    got_N = decoded(codec_of("fp16"), frame, 5000)
    normal_N = np.abs(c_N) >= max(np.abs(c_N).max() / 2**28, 2.0**-14 * 2.0**-126)
    assert (np.abs(got_N - c_N)[normal_N] <= 2.0**-11 * np.abs(c_N)[normal_N]).all()
    assert np.abs(got_N - c_N).max() <= 2.0**-11 * np.abs(c_N).max()


def test_fp16_saturates_where_rounding_up_would_overflow() -> None:
    top = np.finfo(np.float32).max
    frame, _ = fresh(codec_of("fp16"), np.array([top, -top, 1.0], np.float32))
    assert decoded(codec_of("fp16"), frame, 3)[:2].tolist() == [32752 * 2.0**113, -32752 * 2.0**113]


def test_fp16_block_scales_do_not_disturb_each_other() -> None:
    c_N = normal(4096) * np.repeat([1e-20, 1e20], 2048).astype(np.float32)
    frame, _ = fresh(codec_of("fp16"), c_N)
    assert np.allclose(decoded(codec_of("fp16"), frame, 4096)[:2048], c_N[:2048], rtol=0, atol=4e-23)


def test_bf16_is_what_ml_dtypes_rounds_to() -> None:
    c_N = normal(20_000) * np.float32(10.0) ** normal(20_000, 1)
    c_N[:4] = [1 + 2**-8, 1 + 3 * 2**-8, 1e-40, -0.0]  # two ties, a subnormal
    frame, _ = fresh(codec_of("bf16:error_feedback=false"), c_N)
    assert frame[16:].tobytes() == c_N.astype(ml_dtypes.bfloat16).tobytes()


def test_bf16_saturates() -> None:
    top = np.finfo(np.float32).max
    frame, memory = fresh(codec_of("bf16"), np.array([top, -top], np.float32))
    assert frame[16:].view(np.uint16).tolist() == [0x7F7F, 0xFF7F] and np.isfinite(residual(memory)).all()
