"""Views and encoded frames on a server: what is held stays as it is, what no frame can say travels whole."""

from __future__ import annotations

import numpy as np
import pytest

from ps.buffers import Pool
from ps.compression import Codec, compressor
from ps.compression.base import Memory
from ps.compression.choice import RAW, Codecs, Frame
from ps.keyspace import Options, Slice
from ps.server.views import View
from ps.types import Float32

N = 2000
ITEM = Slice((), N, "float32", Options(), True, N, N)
SPECS = ["onebit", "onebit:group=33,threshold=mean", "int8", "topk:ratio=0.01"]


def normal(seed: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(N).astype(np.float32)


def codec_of(spec: str) -> Codec:
    codec = compressor(spec)
    assert isinstance(codec, Codec)
    return codec


def view_of(spec: str) -> View:
    pool = Pool()
    return View(codec_of(spec), ITEM, pool, pool.copy(normal(1)))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("held", [False, True])
def test_a_view_moves_by_its_frame_and_what_is_held_stays(spec: str, held: bool) -> None:
    view = view_of(spec)
    before = view.values
    if held:
        before.hold()
    view.move(normal(2))
    frame, _ = view.last_frame()
    expected = normal(1)
    view.codec.decode_add(frame.data, expected, 1.0)
    assert frame.codec == view.codec.ID and view.values.array.tobytes() == expected.tobytes()
    assert (view.values is before) is not held
    if held:
        assert before.array.tobytes() == normal(1).tobytes() and before.holders == 1


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_travel_whole(spec: str, held: bool, bad: float) -> None:
    view, w_N = view_of(spec), normal(2)
    w_N[N // 2] = bad
    before = view.values
    if held:
        before.hold()
    view.move(w_N)
    frame, _ = view.last_frame()
    assert frame.codec == RAW and frame.data.tobytes() == w_N.tobytes()
    if held:
        assert before.array.tobytes() == normal(1).tobytes()
    view.move(normal(3))
    assert view.last_frame()[0].codec == RAW, "a view that is not finite cannot be moved by a frame"
    view.move(normal(4))
    assert view.last_frame()[0].codec == view.codec.ID


def test_a_frame_that_is_no_shorter_than_the_slice_is_not_sent() -> None:
    view = view_of("onebit:group=1")
    view.move(normal(2))
    frame, _ = view.last_frame()
    assert frame.codec == RAW and frame.data.tobytes() == normal(2).tobytes()


@pytest.mark.parametrize("kinds", ["ee", "re", "er", "rr", "e"])
@pytest.mark.parametrize("total", [1.0, 5.0])
def test_raw_and_encoded_frames_are_summed_in_their_order(kinds: str, total: float) -> None:
    codecs, codec, weights = Codecs("onebit"), codec_of("onebit"), [2.0, 3.0][: len(kinds)]
    frames, expected = [], np.full(N, -0.0 if kinds == "rr" else 0.0, np.float32)
    for seed, kind in enumerate(kinds):
        data = normal(seed)
        if kind == "e":
            space = np.zeros(codec.bytes_max(1, N), np.uint8)
            codec.encode(data, Memory(1, N, None), space)
            frames.append(Frame(codec.ID, space))
            codec.decode_add(space, expected, weights[seed])
        else:
            frames.append(Frame(RAW, data))
            expected += np.float32(weights[seed]) * data
    out = np.full(N, np.nan, np.float32)
    codecs.mean(ITEM, frames, weights, total, out)
    assert out.tobytes() == (expected / np.float32(total)).tobytes()
