"""topk, dgc and threshold: the invariants of the reference, 2.5."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ps.compression import Memory
from ps.compression.dgc import Dgc
from ps.optim import OPTIMIZERS
from ps.types import Float32
from tests.unit.compression.helpers import codec_of, decoded, encode, fresh, normal, residual


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.2, 1.0])
def test_topk_sends_the_largest_exactly_and_keeps_the_rest(ratio: float) -> None:
    codec, c_N = codec_of(f"topk:ratio={ratio}"), normal(5000)
    frame, memory = fresh(codec, c_N)
    got_N, k = decoded(codec, frame, 5000), math.ceil(ratio * 5000)
    sent_N = got_N != 0
    assert sent_N.sum() == k and np.array_equal(got_N[sent_N], c_N[sent_N])
    assert set(np.flatnonzero(sent_N)) == set(np.argsort(-np.abs(c_N), kind="stable")[:k])
    assert not residual(memory)[sent_N].any() and np.array_equal(residual(memory)[~sent_N], c_N[~sent_N])


def test_topk_takes_the_lower_index_of_equals() -> None:
    codec = codec_of("topk:ratio=0.5")
    frame, _ = fresh(codec, np.array([1, 2, -2, 1, 2, -1, 2, 0], np.float32))
    assert decoded(codec, frame, 8).tolist() == [0, 2, -2, 0, 2, 0, 2, 0]
    frame, _ = fresh(codec, np.array([1, -1, 1, 0, -1, 1, 1, 1], np.float32))
    assert decoded(codec, frame, 8).tolist() == [1, -1, 1, 0, -1, 0, 0, 0]


def test_topk_serves_equal_gradients_round_robin() -> None:
    codec, n = codec_of("topk:ratio=0.07"), 100
    memory, sent_N = codec.memory(n, 1), np.zeros(n, int)
    for _ in range(math.ceil(n / 7)):
        sent_N += decoded(codec, encode(codec, np.ones(n, np.float32), memory), n) != 0
    assert sent_N.min() >= 1


def test_topk_refund_is_exact() -> None:
    codec, c_N = codec_of("topk:ratio=0.1"), normal(1000)
    frame, memory = fresh(codec, c_N)
    codec.refund(frame, memory)
    assert np.array_equal(residual(memory), c_N)


def test_topk_takes_the_shortest_layout() -> None:
    far_N = np.zeros(3_000_000, np.float32)
    far_N[2_999_999] = 1
    frame, _ = fresh(codec_of("topk:ratio=1e-9"), far_N)
    assert (frame.size, frame[2]) == (16 + 4 + 4, 0)  # pairs: the varint has four bytes, too
    frame, _ = fresh(codec_of("topk:ratio=0.01"), normal(10_000))
    assert frame[2] == 2 and 100 <= frame.size - 16 - 400 <= 200  # varints: gaps of about 100
    frame, _ = fresh(codec_of("topk:ratio=0.2"), normal(10_000))
    assert (frame.size, frame[2]) == (16 + 1250 + 8000, 1)  # bitmap


def test_topk_halves_leave_their_rounding_in_the_residual() -> None:
    codec, c_N = codec_of("topk:ratio=0.3,values=fp16"), normal(10_000, scale=1e-9)
    frame, memory = fresh(codec, c_N)
    got_N = decoded(codec, frame, 10_000)
    assert frame.size == 16 + 1250 + 4 * 2 + 2 * 3000
    assert np.array_equal(got_N + residual(memory), c_N)
    sent_N = got_N != 0
    assert (np.abs(residual(memory)[sent_N]) <= 2.0**-11 * np.abs(c_N[sent_N])).all()


@pytest.mark.parametrize("masking", [True, False])
def test_dgc_at_density_one_is_sgd_with_or_without_momentum(masking: bool) -> None:
    codec = Dgc(ratio=1.0, momentum=0.9, masking=masking)
    memory, velocity_N = codec.memory(10, 10), np.zeros(100, np.float32)
    for step in range(20):
        grad_N = normal(100, step)
        velocity_N = np.float32(0.9) * velocity_N + grad_N
        sent_N = decoded(codec, encode(codec, grad_N, memory), 100)
        assert np.array_equal(sent_N, grad_N if masking else velocity_N)
        assert not residual(memory).any()


def test_dgc_masks_and_keeps_what_it_has_not_sent() -> None:
    codec = Dgc(ratio=0.1, stage=0)
    memory, u_N, v_N = codec.memory(100, 1), np.zeros(100, np.float32), np.zeros(100, np.float32)
    for step in range(10):
        grad_N = normal(100, step)
        u_N = np.float32(0.9) * u_N + grad_N
        v_N = v_N + u_N
        sent = np.argsort(-np.abs(v_N), kind="stable")[:10]
        got_N = decoded(codec, encode(codec, grad_N, memory), 100)
        assert set(np.flatnonzero(got_N)) == set(sent) and np.array_equal(got_N[sent], v_N[sent])
        v_N[sent] = u_N[sent] = 0
        assert np.array_equal(residual(memory), v_N) and np.array_equal(memory.arrays["velocity"], u_N)


def test_dgc_refund_goes_back_into_v() -> None:
    codec, grad_N = Dgc(ratio=0.1), normal(1000)
    frame, memory = fresh(codec, grad_N)
    codec.refund(frame, memory)
    assert np.array_equal(residual(memory), grad_N)


def test_dgc_warms_up_in_five_stages() -> None:
    codec = Dgc(stage=3)
    memory, kept = codec.memory(10_000, 1), []
    for step in range(15):
        frame = encode(codec, normal(10_000, step), memory)
        kept.append(int(frame[4:8].view(np.uint32)[0]))
    assert kept == [k for k in (2500, 625, 157, 40, 10) for _ in range(3)]  # 75, 93.75, 98.4, 99.6, 99.9 %
    assert Dgc(stage=0).share(0) == 0.001


def test_dgc_refuses_a_second_momentum() -> None:
    assert set(Dgc.REFUSES) == {"momentum", "nesterov", "delayed_nesterov", "adam", "adamw"} <= set(OPTIMIZERS)
    assert all("worker" in reason for reason in Dgc.REFUSES.values())


@pytest.mark.parametrize(("t", "dense"), [(0.5, True), (3.0, False)])
def test_threshold_sends_t_where_it_is_reached(t: float, dense: bool) -> None:
    codec, c_N = codec_of(f"threshold:t={t},clip_every=0"), normal(1000)
    frame, memory = fresh(codec, c_N)
    got_N = decoded(codec, frame, 1000)
    expected_N = np.where(np.abs(c_N) >= t, np.copysign(np.float32(t), c_N), 0)
    assert np.array_equal(got_N, expected_N) and np.array_equal(residual(memory), c_N - expected_N.astype(np.float32))
    sent = int((got_N != 0).sum())
    assert frame[2] == dense == (sent > 1000 / 16)
    assert frame.size == 16 + (250 if dense else 4 * sent)


@pytest.mark.parametrize(("sent", "flag", "size"), [(0, 0, 16), (10, 0, 56), (11, 1, 56)])
def test_threshold_is_sparse_up_to_one_in_sixteen(sent: int, flag: int, size: int) -> None:
    frame, _ = fresh(codec_of("threshold:t=1"), np.repeat([-2.0, 0.5], [sent, 160 - sent]).astype(np.float32))
    assert (frame[2], frame.size) == (flag, size)


def run_threshold(spec: str, grads: list[Float32]) -> tuple[Memory, list[float]]:
    codec, seen = codec_of(spec), []
    memory = codec.memory(grads[0].size, 1)
    for grad_N in grads:
        seen.append(float(memory.arrays["threshold"][0]))
        encode(codec, grad_N, memory)
    return memory, seen


def test_threshold_adapts_to_what_was_sent() -> None:
    n, factor = 20_000, 0.5 ** (1 / 20)
    _, rising = run_threshold("threshold:t=0.001", [normal(n)] * 3)
    assert rising == pytest.approx([0.001, 0.001 / factor, 0.001 / factor**2])
    _, falling = run_threshold("threshold:t=100", [normal(n)] * 3)
    assert falling == pytest.approx([100, 100 * factor, 100 * factor**2])
    fair_N = np.zeros(n, np.float32)
    fair_N[:20] = 5.0  # 0.1 %
    assert run_threshold("threshold:t=5", [fair_N] * 3)[1] == [5, 5, 5]
    assert run_threshold("threshold:t=5,adaptive=false", [normal(n)] * 3)[1] == [5, 5, 5]


def test_threshold_does_not_fall_below_its_floor() -> None:
    memory, _ = run_threshold("threshold:t=1.5e-8", [np.zeros(100, np.float32)] * 30)
    assert memory.arrays["threshold"][0] == 1e-8


def test_threshold_clips_every_fifth_frame_and_counts_it() -> None:
    grads = [np.full(40, 3.0, np.float32)] * 5
    unclipped, _ = run_threshold("threshold:t=0.5,adaptive=false,clip_every=0", grads)
    memory, _ = run_threshold("threshold:t=0.5,adaptive=false", grads)
    assert (residual(unclipped) == 12.5).all() and unclipped.arrays["clipped"][0] == 0  # 5 * (3.0 - 0.5)
    assert (residual(memory) == 2.5).all() and memory.arrays["clipped"][0] == 40 * 10.0
    four, _ = run_threshold("threshold:t=0.5,adaptive=false", grads[:4])
    assert four.arrays["clipped"][0] == 0


def biased_gradients(x: Float32) -> list[Float32]:
    """Of f_k(x) = (a_k . x)^2 + |x|^2 / 4 (Beznosikov et al., 2020, example 1)."""
    rows = np.array([[-3, 2, 2], [2, -3, 2], [2, 2, -3]], np.float32)
    return [2 * (a @ x) * a + x / 2 for a in rows]


@pytest.mark.parametrize("lr", [0.01, 0.03])
@pytest.mark.parametrize("feedback", [False, True])
def test_top_1_diverges_without_error_feedback_and_converges_with_it(lr: float, feedback: bool) -> None:
    codec = codec_of(f"topk:ratio=0.3333,error_feedback={feedback}")
    memories, x = [codec.memory(3, 1) for _ in range(3)], np.ones(3, np.float32)
    steps = 1500 if feedback else 60
    for _ in range(steps):
        sent = np.zeros(3, np.float32)
        for grad, memory in zip(biased_gradients(x), memories, strict=True):
            codec.decode_add(encode(codec, grad, memory), sent, 1 / 3)
        x = x - np.float32(lr) * sent
    if feedback:
        assert np.abs(x).max() < 1e-3
    else:
        assert np.allclose(x, (1 + 11 * lr / 6) ** steps, rtol=1e-4)
