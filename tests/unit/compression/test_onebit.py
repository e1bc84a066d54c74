"""Two means per group (onebit), one scale per group (sign): the invariants of the reference, 2.1 and 2.2."""

from __future__ import annotations

import numpy as np
import pytest

from ps.types import Bool, Float32
from tests.unit.compression.helpers import codec_of, decoded, encode, fresh, normal, residual

THRESHOLDS = ("zero", "mean")


def levels(c_N: Float32, group: int, threshold: str) -> tuple[Float32, Bool]:
    """(threshold, bits) element by element, in NumPy's own float64 means."""
    threshold_N = np.zeros_like(c_N)
    if threshold == "mean":
        for start in range(0, c_N.size, group):
            threshold_N[start : start + group] = c_N[start : start + group].mean(dtype=np.float64)
    return threshold_N, c_N >= threshold_N


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("group", [1, 7, 64, 512, 70_000])
def test_levels_are_the_means_of_their_sides(threshold: str, group: int) -> None:
    codec, c_N = codec_of(f"onebit:group={group},threshold={threshold}"), normal(150_000 if group > 10_000 else 2000)
    frame, memory = fresh(codec, c_N)
    got_N, left_N = decoded(codec, frame, c_N.size), residual(memory)
    threshold_N, bit_N = levels(c_N, group, threshold)
    for start in range(0, c_N.size, group):
        at = slice(start, start + group)
        for side in (bit_N[at], ~bit_N[at]):
            if side.any():
                assert np.unique(got_N[at][side]).size == 1
                assert np.allclose(got_N[at][side], c_N[at][side].mean(dtype=np.float64), rtol=1e-6, atol=0)
                assert abs(left_N[at][side].sum(dtype=np.float64)) <= 1e-6 * side.sum()  # what is left sums to zero
    assert (got_N[bit_N] >= threshold_N[bit_N]).all() and (got_N[~bit_N] <= threshold_N[~bit_N]).all()


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_is_left_has_the_energy_that_was_not_sent(threshold: str) -> None:
    codec, c_N = codec_of(f"onebit:threshold={threshold}"), normal(512 * 40)
    frame, memory = fresh(codec, c_N)
    before, left = (float(np.square(x, dtype=np.float64).sum()) for x in (c_N, residual(memory)))
    sent = float(np.square(decoded(codec, frame, c_N.size), dtype=np.float64).sum())
    assert left == pytest.approx(before - sent, rel=1e-5) and left <= before
    assert left / before == pytest.approx(1 - 2 / np.pi, abs=0.01)  # 0.3634 for a Gaussian


@pytest.mark.parametrize("spec", ["onebit:group=33", "onebit:group=33,threshold=mean", "sign:group=33"])
def test_a_decoded_frame_encodes_to_itself(spec: str) -> None:
    codec = codec_of(spec)
    frame, _ = fresh(codec, normal(1000))
    again, memory = fresh(codec, decoded(codec, frame, 1000))
    assert np.array_equal(again, frame) and not residual(memory).any()


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -0.3, 3e38, -1e-45])
def test_a_constant_group_is_exact(threshold: str, value: float) -> None:
    codec = codec_of(f"onebit:group=33,threshold={threshold}")
    frame, memory = fresh(codec, np.full(100, value, np.float32))
    assert (decoded(codec, frame, 100) == np.float32(value)).all() and not residual(memory).any()
    if value == 0:
        assert frame[16:24].tobytes() == bytes(8) and frame[24:32].tobytes() == bytes.fromhex("ffffffff01000000")


def test_a_mean_that_underflows_has_one_spelling() -> None:
    frame, _ = fresh(codec_of("onebit:threshold=mean"), np.array([-1e-45, 0, 0, 0, 5], np.float32))
    assert frame[16:20].tobytes() == bytes(4)  # v0 = +0


def test_shards_cut_at_group_boundaries_give_the_same_records() -> None:
    codec, c_N = codec_of("onebit:group=50"), normal(1000)
    whole, parts = fresh(codec, c_N)[0], [fresh(codec, c_N[at : at + 250])[0] for at in range(0, 1000, 250)]
    assert whole[16:].tobytes() == b"".join(part[16:].tobytes() for part in parts)


def test_sign_sends_the_mean_magnitude() -> None:
    codec, c_N = codec_of("sign:group=100"), normal(250)
    frame, memory = fresh(codec, c_N)
    scale_N = np.repeat([np.abs(c_N[at : at + 100]).mean(dtype=np.float64) for at in (0, 100, 200)], 100)[:250]
    assert np.allclose(decoded(codec, frame, 250), np.where(c_N >= 0, scale_N, -scale_N), rtol=1e-6, atol=0)
    for at in (0, 100, 200):  # contraction: |e|^2 = |c|^2 - |c|_1^2 / n
        c, left = c_N[at : at + 100].astype(np.float64), residual(memory)[at : at + 100]
        assert np.square(left).sum() == pytest.approx(np.square(c).sum() - np.abs(c).sum() ** 2 / c.size, rel=1e-4)


@pytest.mark.parametrize(("feedback", "end"), [("false", 1.0), ("true", -1.0)])
def test_signs_need_error_feedback(feedback: str, end: float) -> None:
    """f(x) = x / 4 on [-1, 1], each coordinate's gradient 4 with chance 1/4, else -1 (Karimireddy et al., 2019)."""
    codec, n, random = codec_of(f"sign:group=64,error_feedback={feedback}"), 64, np.random.default_rng(3)
    memory, x_N = codec.memory(n, 1), np.zeros(n, np.float32)
    for _ in range(1500):
        grad_N = np.where(random.random(n) < 0.25, 4, -1).astype(np.float32)
        x_N = np.clip(x_N - np.float32(0.01) * decoded(codec, encode(codec, grad_N, memory), n), -1, 1)
    assert np.mean(x_N) == pytest.approx(end, abs=0.15)
