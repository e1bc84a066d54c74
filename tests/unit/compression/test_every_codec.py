"""What holds for every codec: conservation, sizes, shapes, refunds, replays; bytes do not depend on the walk."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ps.buffers import Pool
from ps.compression import COMPRESSORS, Codec, Memory
from ps.errors import ConfigError
from ps.types import Float32
from tests.unit.compression import oracle
from tests.unit.compression.helpers import SPECS, WITH_PIECES, codec_of, decoded, encode, fresh, normal, residual

SHAPES = ((0, 1), (0, 5), (1, 1), (1, 7), (511, 1), (512, 1), (1, 513), (24, 40), (1000, 1))
CONSERVING = (  # momentum, clip and unbiased noise without feedback aside
    "onebit:group=33",
    "onebit:threshold=mean",
    "sign",
    "qsgd:error_feedback=true",
    "int8",
    "fp16",
    "bf16",
    "topk:ratio=0.03",
    "topk:ratio=0.03,values=fp16",
    "threshold:t=0.1,clip_every=0",
    "dgc:momentum=0,stage=3,ratio=0.02",
    "powersgd:rank=2",
)
N = 24 * 40


def kinds(n: int) -> dict[str, Float32]:
    huge = normal(n, 1)
    huge[: n // 3] *= np.float32(1e37)
    one = np.zeros(n, np.float32)
    one[n // 2 : n // 2 + 1] = -3e38
    return {
        "zero": np.zeros(n, np.float32),
        "minus zero": np.full(n, -0.0, np.float32),
        "constant": np.full(n, -0.1, np.float32),
        "normal": normal(n),
        "huge": huge,
        "one huge": one,
        "subnormal": normal(n, 2) * np.float32(1e-40),
        "smallest": np.where(np.arange(n) % 2, 1, -1).astype(np.float32) * np.float32(1e-45),
        "wide": normal(n, 3) * (10.0 ** (np.arange(n) % 61 - 30)).astype(np.float32),
    }


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES)
def test_frames_of_every_shape_pass_and_mean_what_the_layout_says(spec: str, shape: tuple[int, int]) -> None:
    codec, n = codec_of(spec), shape[0] * shape[1]
    for kind, grad_N in kinds(n).items():
        memory = codec.memory(*shape, seed=3)
        frame = encode(codec, grad_N, memory)
        got_N = decoded(codec, frame, n)
        assert np.isfinite(got_N).all(), kind
        assert np.array_equal(got_N, np.array(oracle.decode(frame.tobytes()), np.float32)), kind
        if memory.residual_N is not None:
            assert np.isfinite(memory.residual_N).all(), kind
        if kind in ("zero", "minus zero"):
            assert not got_N.any() and (memory.residual_N is None or not memory.residual_N.any())


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_finite_gradient_gives_a_frame_that_decodes(spec: str, data: st.DataObject) -> None:
    codec, columns = codec_of(spec), data.draw(st.integers(1, 40))
    floats = st.floats(-(2.0**125), 2.0**125, width=32)
    grad_N = data.draw(arrays.arrays(np.float32, (data.draw(st.integers(0, 20)) * columns,), elements=floats))
    memory = codec.memory(grad_N.size // columns, columns)
    frame = encode(codec, grad_N, memory)
    got_N = decoded(codec, frame, grad_N.size)
    assert np.array_equal(got_N, np.array(oracle.decode(frame.tobytes()), np.float32))
    if memory.residual_N is not None and codec.ID != 8:  # threshold may clip
        assert np.allclose(got_N + memory.residual_N, grad_N, rtol=0, atol=1e-6 * np.abs(grad_N).max(initial=0) + 1e-44)


@pytest.mark.parametrize("spec", CONSERVING)
def test_what_is_sent_and_what_is_left_sum_to_the_gradients(spec: str) -> None:
    codec, steps = codec_of(spec), 40
    memory = codec.memory(24, 40, seed=1)
    sent_N, given_N, top = np.zeros(N), np.zeros(N), 0.0
    residual(memory)[:] = given_N[:] = normal(N, 99)
    for step in range(steps):
        grad_N = normal(N, step)
        sent_N += decoded(codec, encode(codec, grad_N, memory), N)
        given_N += grad_N
        top = max(top, float(np.abs(grad_N).max()))
    assert np.abs(sent_N + residual(memory) - given_N).max() <= 1e-6 * steps * top


@pytest.mark.parametrize("spec", CONSERVING)
def test_refused_frames_come_back_into_the_residual(spec: str) -> None:
    codec, steps = codec_of(spec), 30
    memory = codec.memory(24, 40)
    sent_N, given_N = np.zeros(N), np.zeros(N)
    for step in range(steps):
        grad_N = normal(N, step)
        given_N += grad_N
        frame = encode(codec, grad_N, memory)
        if step % 3 == 1:
            codec.refund(frame, memory)
        else:
            sent_N += decoded(codec, frame, N)
    assert np.abs(sent_N + residual(memory) - given_N).max() <= 1e-6 * steps * 5


@pytest.mark.parametrize("spec", SPECS)
def test_a_replay_gives_the_same_bytes_and_another_seed_only_another_draw(spec: str) -> None:
    codec = codec_of(spec)

    def run(seed: int) -> bytes:
        memory = codec.memory(24, 40, seed)
        return b"".join(encode(codec, normal(N, step), memory).tobytes() for step in range(4))

    assert run(5) == run(5)
    assert (run(5) == run(6)) == (codec.ID not in (3, 10))


@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS if not spec.startswith("powersgd")]
)  # it has a test of its own
def test_pieces_never_change_a_bit(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_of(spec)

    def run() -> bytes:
        memory = codec.memory(1, 1003, seed=2)
        frames = [encode(codec, normal(1003, step), memory) for step in range(3)]
        state = [np.zeros(0) if memory.residual_N is None else memory.residual_N, *memory.arrays.values()]
        return b"".join(x.tobytes() for x in (*frames, *(decoded(codec, f, 1003) for f in frames), *state))

    expected = run()
    for module in WITH_PIECES:
        monkeypatch.setattr(module, "PIECE", 64)
    if codec.ID != 8:  # its clipped mass is a float64 sum over pieces
        assert run() == expected
    else:
        assert run()[:-8] == expected[:-8]


@pytest.mark.parametrize("spec", SPECS)
def test_weights_scale_what_is_added(spec: str) -> None:
    codec = codec_of(spec)
    frame, _ = fresh(codec, normal(N), 24)
    out_N = normal(N, 5)
    expected_N = out_N + np.float32(0.3) * decoded(codec, frame, N)
    codec.decode_add(frame, out_N, 0.3)
    assert np.array_equal(out_N, expected_N)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("total", [1.0, 2.3])
@pytest.mark.parametrize("weights", [[1.0], [0.3, 1.0, -2.0]])
def test_a_mean_is_the_fold_in_order_and_one_division(spec: str, weights: list[float], total: float) -> None:
    codec = codec_of(spec)
    frames = [fresh(codec, normal(N, seed), 24)[0] for seed in range(len(weights))]
    expected_N, got_N = np.zeros(N, np.float32), np.full(N, np.nan, np.float32)
    for frame, weight in zip(frames, weights, strict=True):
        codec.decode_add(frame, expected_N, weight)
    codec.mean(frames, weights, total, got_N)
    assert got_N.tobytes() == (expected_N / np.float32(total)).tobytes()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if codec_of(spec).PULLS is None])
def test_a_move_adds_the_frame_of_the_difference(spec: str) -> None:
    codec, w_N, pool = codec_of(spec), normal(N), Pool()
    memories = [Memory(24, 40, None, seed=5) for _ in range(2)]
    views = [normal(N, 1) for _ in range(2)]
    spaces = [np.zeros(codec.bytes_max(24, 40), np.uint8) for _ in range(2)]
    for _ in range(3):
        expected = codec.encode(w_N - views[0], memories[0], spaces[0])
        codec.decode_add(spaces[0][:expected], views[0], 1.0)
        assert codec.move(w_N, views[1], memories[1], spaces[1], pool) == expected
        assert spaces[1][:expected].tobytes() == spaces[0][:expected].tobytes()
        assert views[1].tobytes() == views[0].tobytes() and memories[1].encoded == memories[0].encoded
    w_N[N // 2] = np.inf
    assert codec.move(w_N, views[1], memories[1], spaces[1], pool) is None


@pytest.mark.parametrize("spec", SPECS)
def test_a_frame_at_an_odd_address_is_the_same_frame(spec: str) -> None:
    codec = codec_of(spec)
    aligned, _ = fresh(codec, normal(N), 24)
    memory, space = codec.memory(24, 40, seed=7), np.zeros(codec.bytes_max(24, 40) + 1, np.uint8)[1:]
    frame = space[: codec.encode(normal(N), memory, space)]
    codec.check(frame, 24, 40)
    assert np.array_equal(frame, aligned)
    assert np.array_equal(decoded(codec, frame, N), decoded(codec, aligned, N))


@pytest.mark.parametrize("n", [0, 1, 7, 511, 512, 513, 5000])
def test_sizes_follow_the_formulas(n: int) -> None:
    ceil = math.ceil
    formulas = {
        "onebit": 16 + ceil(n / 512) * (8 + 64),
        "onebit:group=33": 16 + ceil(n / 33) * (8 + 4 * 2),
        "sign:group=33": 16 + ceil(n / 33) * (4 + 4 * 2),
        "qsgd": 16 + 4 * ceil(n / 512) + ceil(n * 4 / 8),
        "qsgd:levels=16,bucket=64": 16 + 4 * ceil(n / 64) + ceil(n * 6 / 8),
        "qsgd:levels=1": 16 + 4 * ceil(n / 512) + ceil(n * 2 / 8),
        "qsgd:levels=127": 16 + 4 * ceil(n / 512) + n,
        "int8": 16 + 4 * ceil(n / 512) + n,
        "fp16": 16 + 4 * ceil(n / 2048) + 2 * n,
        "bf16": 16 + 2 * n,
        "powersgd": 16 + 4 * n,
    }
    for spec, size in formulas.items():
        codec = codec_of(spec)
        frame, memory = fresh(codec, normal(n))
        assert frame.size == size == codec.bytes_max(memory.rows, memory.columns), spec


@pytest.mark.parametrize("spec", [spec for spec in SPECS if codec_of(spec).PULLS is None])
def test_without_a_residual_repeated_differences_arrive(spec: str) -> None:
    """As pulls do it: view += decode(encode(w - view)), with a bare memory."""
    codec, w_N, view_N = codec_of(spec), normal(N), np.zeros(N, np.float32)
    memory, before = Memory(24, 40, None), float(np.linalg.norm(w_N))
    for _ in range(60):
        codec.decode_add(encode(codec, w_N - view_N, memory), view_N, 1.0)
    if "levels=1," not in spec:  # qsgd by the 2-norm is no contraction at few levels
        assert np.linalg.norm(w_N - view_N) < 0.2 * before


def test_ids_are_those_of_the_wire() -> None:
    ids = {name: codec.ID for name, codec in COMPRESSORS.items() if issubclass(codec, Codec)}
    names = ("onebit", "sign", "qsgd", "int8", "fp16", "bf16", "topk", "threshold", "dgc", "powersgd")
    assert ids == {name: i for i, name in enumerate(names, 1)}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("onebit:group=0", "group"),
        ("onebit:threshold=median", "threshold"),
        ("qsgd:levels=128", "levels"),
        ("qsgd:bucket=12", "bucket"),
        ("topk:ratio=0", "ratio"),
        ("topk:ratio=1.5", "ratio"),
        ("topk:values=int8", "values"),
        ("powersgd:rank=0", "rank"),
        ("threshold:error_feedback=false", "error_feedback: expected true"),
        ("dgc:error_feedback=false", "error_feedback: expected true"),
        ("dgc:momentum=1", "momentum"),
        ("int8:bits=4", "bits"),
    ],
)
def test_wrong_options_are_refused(spec: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        codec_of(spec)
