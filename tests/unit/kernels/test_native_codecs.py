"""The native kernels of codecs give the bytes of their NumPy twins on every target, and never leave an array."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.kernels import dispatch, factors, floats, lowrank, onebit, quantise, sparse, threshold
from ps.types import Array, Float32, UInt8

native = dispatch._native
pytestmark = pytest.mark.skipif(native is None, reason="the native kernels are not built: `make native`")

LENGTHS = st.one_of(st.integers(0, 100), st.sampled_from([511, 512, 513, 1025, 4099, 33000]))
GROUPS = st.one_of(st.integers(1, 70), st.sampled_from([512, 1000, 40000]))
SEEDS = st.integers(0, 1 << 30)
WEIGHTS = st.sampled_from([1.0, -1.0, 0.3, 0.0, -0.0, 1e30])
MODES = st.sampled_from(["plain", "mixed", "tiny", "same", "zero"])
OFFSETS = st.integers(0, 5)  # bytes: a frame's body starts where it may
TARGETS = native.available() if native is not None else []


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each dispatch target in turn; afterwards the one that was in use."""
    before = native.in_use()
    native.use(request.param)
    yield request.param
    native.use(before)


def numbers(n: int, seed: int, mode: str) -> Float32:
    """Finite, also the sum of two of them. mixed: all magnitudes, zeros of both signs, subnormals, huge ones."""
    rng = np.random.default_rng(seed)
    if mode in ("same", "zero"):
        return rng.choice(np.array([0.0, -0.0] if mode == "zero" else [0.75, -0.75, 0.0], np.float32), n)
    if mode == "tiny":
        return (rng.integers(-300, 300, n) * 2.0**-149).astype(np.float32)
    x = rng.standard_normal(n).astype(np.float32)
    if mode == "mixed":
        x *= (10.0 ** rng.integers(-6, 4, n)).astype(np.float32)
        info = np.finfo(np.float32)
        special = np.array(
            [0.0, -0.0, info.tiny, -info.smallest_subnormal, info.max / 2, -info.max / 2, 1.0], np.float32
        )
        chosen = rng.random(n) < 0.1
        x[chosen] = rng.choice(special, int(chosen.sum()))
    return x


def room(size: int, offset: int) -> UInt8:
    """Bytes that start `offset` bytes into a buffer, with rubbish in them."""
    return np.full(size + offset, 0xA5, np.uint8)[offset:]


def copied(value: Any) -> Any:
    """A copy of an array, as little aligned as the original; of each one in a list."""
    if isinstance(value, list):
        return [copied(one) for one in value]
    if not isinstance(value, np.ndarray):
        return value
    shift = value.ctypes.data % 64
    buffer = np.empty(value.nbytes + 128, np.uint8)
    start = (shift - buffer.ctypes.data) % 64
    result = buffer[start : start + value.nbytes].view(value.dtype)
    result[:] = value
    return result


def same(twin: Callable[..., Any], *args: Any) -> list[Any]:
    """Calls twin and native on copies: results and all arrays are equal, byte for byte. Returns the arguments after."""
    theirs, ours = [copied(a) for a in args], [copied(a) for a in args]
    expected, got = twin(*theirs), getattr(native, twin.__name__)(*ours)
    assert expected == got
    for want, have in zip(theirs, ours, strict=True):
        if isinstance(want, np.ndarray):
            assert want.tobytes() == have.tobytes(), twin.__name__
    return ours


@settings(max_examples=150, deadline=None)
@given(n=LENGTHS, group=GROUPS, seed=SEEDS, mode=MODES, weight=WEIGHTS, offset=OFFSETS, feedback=st.booleans())
def check_bits(n: int, group: int, seed: int, mode: str, weight: float, offset: int, feedback: bool) -> None:
    g, out = numbers(n, seed, mode), numbers(n, seed + 2, mode)
    e = numbers(n, seed + 1, mode) if feedback else None
    records = -(-n // group)
    for mean in (False, True):
        space = room(records * (8 + 4 * onebit.words(group)), offset)
        *_, frame = same(onebit.onebit_encode, g, e, group, mean, space)
        same(onebit.onebit_decode_add, frame, group, out, weight)
    *_, frame = same(onebit.sign_encode, g, e, group, room(records * (4 + 4 * onebit.words(group)), offset))
    same(onebit.sign_decode_add, frame, group, out, weight)


@settings(max_examples=150, deadline=None)
@given(
    n=LENGTHS, group=GROUPS, seed=SEEDS, mode=MODES, offset=OFFSETS, mean=st.booleans(),
    weights=st.lists(WEIGHTS, max_size=5), total=st.sampled_from([1.0, 3.0, -0.3, 0.0]),
)  # fmt: skip
def check_fused(
    n: int, group: int, seed: int, mode: str, offset: int, mean: bool, weights: list[float], total: float
) -> None:
    size = -(-n // group) * (8 + 4 * onebit.words(group))
    frames = [room(size, offset) for _ in weights]
    for k, frame in enumerate(frames):
        onebit.onebit_encode(numbers(n, seed + k, mode), None, group, mean, frame)
    *_, out = same(onebit.onebit_mean, frames, weights, total, group, np.full(n, np.nan, np.float32))
    with np.errstate(all="ignore"):  # the composition that it stands for
        expected = np.zeros(n, np.float32)
        for frame, weight in zip(frames, weights, strict=True):
            onebit.onebit_decode_add(frame, group, expected, weight)
        expected = expected / np.float32(total)
    assert out.tobytes() == expected.tobytes()

    w, view = numbers(n, seed, mode), numbers(n, seed + 9, mode)
    _, moved, *_, records = same(onebit.onebit_move, w, view, group, mean, room(size, offset))
    onebit.onebit_encode(w - view, None, group, mean, apart := room(size, 0))
    onebit.onebit_decode_add(apart, group, view, 1.0)
    assert moved.tobytes() == view.tobytes() and records.tobytes() == apart.tobytes()
    same(onebit.onebit_finite, records, group)


@settings(max_examples=60, deadline=None)
@given(
    n=LENGTHS.filter(bool), group=GROUPS, seed=SEEDS, offset=OFFSETS, mean=st.booleans(), at=SEEDS,
    bad=st.sampled_from([(np.nan, 0.0), (0.0, -np.inf), (np.inf, np.inf), (3e38, -3e38), (-np.nan, np.inf)]),
)  # fmt: skip
def check_not_finite(n: int, group: int, seed: int, offset: int, mean: bool, at: int, bad: tuple[float, float]) -> None:
    w, view = numbers(n, seed, "plain"), numbers(n, seed + 1, "plain")
    w[at % n], view[at % n] = bad
    size = -(-n // group) * (8 + 4 * onebit.words(group))
    for move in (onebit.onebit_move, native.onebit_move):
        assert move(w, view.copy(), group, mean, room(size, offset)) is False
    records = room(size, offset)
    onebit.onebit_encode(numbers(n, seed, "plain"), None, group, mean, records)
    assert native.onebit_finite(records, group) is True
    level = at % (2 * -(-n // group))
    records.reshape(-1, 8 + 4 * onebit.words(group))[level // 2, level % 2 * 4 :][:4].view(np.float32)[0] = np.sum(bad)
    same(onebit.onebit_finite, records, group)


@settings(max_examples=150, deadline=None)
@given(n=LENGTHS, block=GROUPS, seed=SEEDS, mode=MODES, weight=WEIGHTS, offset=OFFSETS, feedback=st.booleans())
def check_blocks(n: int, block: int, seed: int, mode: str, weight: float, offset: int, feedback: bool) -> None:
    g, out = numbers(n, seed, mode), numbers(n, seed + 2, mode)
    e = numbers(n, seed + 1, mode) if feedback else None
    blocks = -(-n // block)
    *_, frame = same(quantise.int8_encode, g, e, block, room(4 * blocks + n, offset))
    same(quantise.int8_decode_add, frame, block, out, weight)
    *_, frame = same(floats.half_encode, g, e, block, room(4 * blocks + 2 * n, offset))
    same(floats.half_decode_add, frame, block, out, weight)
    same(floats.bits_max, frame[4 * blocks :].view(np.float16))
    *_, frame = same(floats.bfloat_encode, g, e, room(2 * n, offset))
    same(floats.bfloat_decode_add, frame, out, weight)
    same(floats.bits_max, frame.view(np.uint16))


@settings(max_examples=150, deadline=None)
@given(
    n=LENGTHS, bucket=GROUPS.map(lambda size: 8 * size), levels=st.integers(1, 127), l2=st.booleans(), seed=SEEDS,
    mode=MODES, weight=WEIGHTS, offset=OFFSETS, feedback=st.booleans(),
)  # fmt: skip
def check_levels(
    n: int, bucket: int, levels: int, l2: bool, seed: int, mode: str, weight: float, offset: int, feedback: bool
) -> None:
    g, out = numbers(n, seed, mode), numbers(n, seed + 2, mode)
    e = numbers(n, seed + 1, mode) if feedback else None
    size = 4 * -(-n // bucket) + -(-n * quantise.bits_of_levels(levels) // 8)
    *_, frame = same(quantise.qsgd_encode, g, e, bucket, levels, l2, seed, room(size, offset))
    same(quantise.qsgd_decode_add, frame, bucket, levels, out, weight)
    same(quantise.qsgd_code_max, frame, n, bucket, levels)


@settings(max_examples=150, deadline=None)
@given(
    n=LENGTHS, seed=SEEDS, mode=MODES, weight=WEIGHTS, offset=OFFSETS, t=st.sampled_from([1e-8, 0.5, 0.75, 3.0, 1e30])
)
def check_threshold(n: int, seed: int, mode: str, weight: float, offset: int, t: float) -> None:
    g, e, out = (numbers(n, seed + i, mode) for i in range(3))
    _, e, _ = same(threshold.threshold_count, g, e, t)
    sent = int(np.count_nonzero(np.abs(e) >= np.float32(t)))
    _, _, frame = same(threshold.threshold_sparse, e, t, room(4 * sent, offset))
    same(threshold.threshold_sparse_add, frame, t, out, weight)
    _, _, frame = same(threshold.threshold_dense, e, t, room(-(-n // 4), offset))
    same(threshold.threshold_dense_add, frame, t, out, weight)
    same(threshold.threshold_dense_fault, frame, n)
    noise = np.random.default_rng(seed).integers(0, 256, frame.size).astype(np.uint8)
    same(threshold.threshold_dense_fault, noise, n)
    same(threshold.threshold_dense_fault, noise & 0x55, n)
    same(threshold.threshold_dense_add, noise, t, out, weight)
    same(threshold.threshold_clip, e, t)


@settings(max_examples=150, deadline=None)
@given(n=LENGTHS, seed=SEEDS, mode=MODES, weight=WEIGHTS, offset=OFFSETS, ratio=st.sampled_from([0.0, 0.01, 0.3, 1.0]))
def check_chosen(n: int, seed: int, mode: str, weight: float, offset: int, ratio: float) -> None:
    x, e, out = (numbers(n, seed + i, mode) for i in range(3))
    same(sparse.accumulate, x, e)
    same(sparse.momentum_accumulate, x, e, out, 0.9)
    unaligned = room(4 * n, offset).view(np.float32)
    unaligned[:] = x
    same(lowrank.scaled_add, unaligned, out, weight)
    index = np.zeros(int(np.ceil(ratio * n)), np.uint32)
    _, index = same(sparse.largest, x, index)
    *_, value = same(sparse.gather, x, index, np.zeros(index.size, np.float32))
    same(sparse.clear, index, out)
    unaligned = room(4 * index.size, offset).view(np.float32)
    unaligned[:] = value
    same(sparse.scatter_add, index, unaligned, out, weight)
    *_, bitmap = same(sparse.bitmap_encode, index, n, room(-(-n // 8), offset))
    same(sparse.bitmap_count, bitmap)
    same(sparse.bitmap_decode, bitmap, np.zeros_like(index))
    check_varints(index, n, offset)


@settings(max_examples=150, deadline=None)
@given(k=st.integers(0, 6), m=st.integers(0, 9), n=st.integers(0, 70), seed=SEEDS, mode=MODES, weight=WEIGHTS)
def check_factors(k: int, m: int, n: int, seed: int, mode: str, weight: float) -> None:
    u, v = (np.clip(numbers(k * size, seed + size, mode), -1e15, 1e15).reshape(k, size) for size in (m, n))
    out = numbers(m * n, seed, mode)
    expected, got = out.copy(), out.copy()
    factors.factors_add(u, v, expected, weight)
    native.factors_add(u, v, got, weight)
    assert expected.tobytes() == got.tobytes()


def check_varints(index: Array, n: int, offset: int) -> None:
    same(sparse.varint_bytes, index)
    _, code = same(sparse.varint_encode, index, room(sparse.varint_bytes(index), offset))
    same(sparse.varint_decode, code, np.zeros_like(index))
    for k in (index.size, index.size + 1):
        same(sparse.varint_fault, code, k, n)
        same(sparse.varint_fault, code, k, max(n - 1, 0))


@settings(max_examples=300, deadline=None)
@given(code=st.binary(max_size=40), few=st.booleans(), k=st.integers(0, 12), n=st.integers(0, 1 << 20))
def check_hostile_varints(code: bytes, few: bool, k: int, n: int) -> None:
    raw = np.frombuffer(code, np.uint8)
    raw = raw & np.uint8(0x83) if few else raw
    count = int(np.count_nonzero(raw < 0x80))
    same(sparse.varint_fault, raw, k, n)
    same(sparse.varint_fault, raw, count, n)
    same(sparse.varint_decode, raw, np.zeros(count, np.uint32))


def test_one_bit_codecs_give_the_bytes_of_their_twins(target: str) -> None:
    check_bits()


def test_fused_one_bit_kernels_give_the_bytes_of_their_twins_and_of_their_parts(target: str) -> None:
    check_fused()


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_view_that_cannot_follow_is_told_and_levels_that_are_not_finite_are_found(target: str) -> None:
    check_not_finite()


def test_block_codecs_give_the_bytes_of_their_twins(target: str) -> None:
    check_blocks()


def test_levels_give_the_bytes_of_their_twins(target: str) -> None:
    check_levels()


def test_thresholds_give_the_bytes_of_their_twins(target: str) -> None:
    check_threshold()


def test_chosen_elements_give_the_bytes_of_their_twins(target: str) -> None:
    check_chosen()


def test_products_of_factors_give_the_bytes_of_their_twin(target: str) -> None:
    check_factors()


def test_hostile_varints_are_read_as_the_twins_read_them(target: str) -> None:
    check_hostile_varints()


def test_wide_gaps(target: str) -> None:
    index = np.cumsum(np.array([0, 127, 128, 16384, 1 << 21, 1 << 28, 1 << 31]) + 1, dtype=np.uint64) - 1
    check_varints(index.astype(np.uint32), 1 << 32, 3)


@pytest.mark.parametrize("k", [1, 700, 65537, 99_999, 100_000])
@pytest.mark.parametrize("kind", ["normal", "many equal", "few large at the front", "ascending"])
def test_the_largest_of_many(target: str, k: int, kind: str) -> None:
    x = np.random.default_rng(k).standard_normal(100_000).astype(np.float32)  # long enough for a bound by samples
    if kind == "many equal":
        x = np.round(x)
    elif kind == "few large at the front":
        x[:2000] *= 1e6
    elif kind == "ascending":
        x.sort()
    same(sparse.largest, x, np.zeros(k, np.uint32))


def test_float16_of_every_kind_of_number(target: str) -> None:
    half = np.arange(0, 0x7800, dtype=np.uint16).view(np.float16).astype(np.float32)
    upper = np.nextafter(half, np.float32(np.inf))
    between = (half[:-1] + half[1:]) / 2  # ties, and their neighbours
    g = np.concatenate([half, upper, between, np.nextafter(between, np.float32(0))])
    g = np.concatenate([g, -g])
    same(floats.half_encode, g, g / 3, g.size, np.zeros(4 + 2 * g.size, np.uint8))
    *_, frame = same(floats.half_encode, g, None, g.size, np.zeros(4 + 2 * g.size, np.uint8))
    same(floats.half_decode_add, frame, g.size, g, 1.0)
    every = np.concatenate([frame[:4], np.arange(0x7C00, dtype=np.uint16).view(np.uint8)])
    same(floats.half_decode_add, every, g.size, np.ones(0x7C00, np.float32), 1.0)


def test_a_group_larger_than_the_cache(target: str) -> None:
    g = numbers(1 << 20, 1, "mixed")
    same(
        onebit.onebit_encode, g, g[::-1].copy(), g.size + 5, True, np.zeros(8 + 4 * onebit.words(g.size + 5), np.uint8)
    )


def short(bytes_: int) -> UInt8:
    return np.zeros(bytes_, np.uint8)


G = np.ones(40, np.float32)
WRONG: dict[str, tuple[Any, ...]] = {  # one row: a kernel, and a buffer that is one element short
    "onebit_encode": (G, None, 40, False, short(15)),
    "onebit_decode_add": (short(15), 40, G.copy(), 1.0),
    "onebit_mean": ([short(16), short(15)], [1.0, 1.0], 2.0, 40, G.copy()),
    "onebit_move": (G, G[1:].copy(), 40, False, short(16)),
    "onebit_finite": (short(17), 40),
    "sign_encode": (G, G[1:].copy(), 40, short(12)),
    "sign_decode_add": (short(11), 40, G.copy(), 1.0),
    "int8_encode": (G, None, 20, short(47)),
    "int8_decode_add": (short(47), 20, G.copy(), 1.0),
    "qsgd_encode": (G, None, 20, 7, False, 1, short(28)),  # 20 is no multiple of 8
    "qsgd_decode_add": (short(23), 40, 7, G.copy(), 1.0),
    "qsgd_code_max": (short(23), 40, 40, 7),
    "half_encode": (G, None, 40, short(83)),
    "half_decode_add": (short(83), 40, G.copy(), 1.0),
    "bfloat_encode": (G, None, short(79)),
    "bfloat_decode_add": (short(79), G.copy(), 1.0),
    "bits_max": (short(80),),
    "accumulate": (G, G[1:].copy()),
    "momentum_accumulate": (G, G.copy(), G[1:].copy(), 0.9),
    "scaled_add": (G, G[1:].copy(), 1.0),
    "factors_add": (G.reshape(1, 40), G[:2].reshape(1, 2), np.ones(79, np.float32), 1.0),
    "triad": (G, G, G[1:].copy(), 1.0),
    "threshold_count": (G, G[1:].copy(), 0.5),
    "threshold_sparse": (G.copy(), 0.5, short(156)),
    "threshold_dense": (G.copy(), 0.5, short(9)),
    "threshold_sparse_add": (short(3), 0.5, G.copy(), 1.0),
    "threshold_dense_add": (short(9), 0.5, G.copy(), 1.0),
    "threshold_dense_fault": (short(9), 40),
    "largest": (G, np.zeros(41, np.uint32)),
    "gather": (G, np.zeros(3, np.uint32), np.zeros(2, np.float32)),
    "scatter_add": (np.zeros(3, np.uint32), np.zeros(2, np.float32), G.copy(), 1.0),
    "bitmap_encode": (np.zeros(3, np.uint32), 40, short(4)),
    "bitmap_decode": (np.full(1, 7, np.uint8), np.zeros(2, np.uint32)),
    "varint_encode": (np.full(2, 300, np.uint32), short(3)),
    "varint_decode": (np.zeros(3, np.uint8), np.zeros(2, np.uint32)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_length_is_refused(target: str, name: str) -> None:
    with pytest.raises(ValueError):
        getattr(native, name)(*WRONG[name])


def test_frames_and_weights_are_as_many(target: str) -> None:
    with pytest.raises(ValueError, match="one weight per frame"):
        native.onebit_mean([short(16)], [1.0, 1.0], 2.0, 40, G.copy())


@pytest.mark.parametrize("group", [0, 1 << 31])
def test_a_group_that_no_codec_has_is_refused(target: str, group: int) -> None:
    with pytest.raises(ValueError, match="group"):
        native.onebit_decode_add(short(0), group, np.zeros(0, np.float32), 1.0)
    with pytest.raises(ValueError, match="group"):
        native.onebit_finite(short(0), group)


@pytest.mark.parametrize("wrong", [[8], [1, 1 << 31], [0xFFFFFFFF]])
def test_an_index_outside_is_refused_and_nothing_is_written_there(target: str, wrong: list[int]) -> None:
    index, whole = np.array(wrong, np.uint32), np.ones(24, np.float32)
    inside, value = whole[8:16], np.ones(len(wrong), np.float32)
    calls: dict[str, tuple[Any, ...]] = {
        "scatter_add": (index, value, inside, 1.0),
        "clear": (index, inside),
        "gather": (inside, index, value),
        "bitmap_encode": (index, 8, np.zeros(1, np.uint8)),
    }
    for name, args in calls.items():
        with pytest.raises(IndexError):
            getattr(native, name)(*args)
    assert (whole[:8] == 1).all() and (whole[16:] == 1).all()


@pytest.mark.parametrize("number", [0, 9, -9, -(1 << 31), (1 << 31) - 1])
def test_a_threshold_index_outside_is_refused(target: str, number: int) -> None:
    whole = np.ones(24, np.float32)
    with pytest.raises(IndexError):
        native.threshold_sparse_add(np.array([number], np.int32).view(np.uint8), 0.5, whole[8:16], 1.0)
    assert (whole == 1).all()


def test_frames_may_be_read_only(target: str) -> None:
    frame, index = np.zeros(16, np.uint8), np.zeros(1, np.uint32)
    for array in (frame, index):
        array.setflags(write=False)
    native.onebit_decode_add(frame, 40, G.copy(), 1.0)
    native.scatter_add(index, frame[:4].view(np.float32), G.copy(), 1.0)
    with pytest.raises((TypeError, ValueError, BufferError)):
        native.onebit_encode(G, None, 40, False, frame)
