"""Bytes from anyone: `check` refuses with FrameError and nothing else, and what it lets through decodes to numbers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.compression import Codec
from ps.errors import FrameError
from ps.kernels import sparse as kernels
from ps.types import UInt8
from tests.unit.compression.helpers import SPECS, codec_of, decoded, encode, fresh, normal

ROWS, COLUMNS = 13, 17
N = ROWS * COLUMNS
BYTES = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255))
EDITS = st.lists(st.tuples(st.integers(0, 3000), BYTES), max_size=6)


def check_then_decode(spec: str, frame: UInt8, rows: int = ROWS, columns: int = COLUMNS) -> None:
    codec = codec_of(spec)
    if text := refusal(codec, frame, rows, columns):
        assert "expected" in text and "got" in text
    else:
        assert np.isfinite(decoded(codec, frame, rows * columns)).all()


def refusal(codec: Codec, frame: UInt8, rows: int, columns: int) -> str:
    try:
        codec.check(frame, rows, columns)
    except FrameError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=150)
@given(edits=EDITS, cut=st.integers(-40, 9), step=st.integers(0, 1), header=st.booleans())
def test_mutated_frames(spec: str, edits: list[tuple[int, int]], cut: int, step: int, header: bool) -> None:
    codec = codec_of(spec)
    memory = codec.memory(ROWS, COLUMNS)
    for number in range(step + 1):
        frame = encode(codec, normal(N, number), memory).copy()
    for at, byte in edits:
        low = 0 if header or frame.size == 16 else 16  # most edits of the header are refused at once
        frame[low + at % (frame.size - low)] = byte
    if cut < 0 and len(edits) % 2:
        frame = frame[:cut]
    elif cut > 0 and len(edits) % 2:
        frame = np.concatenate([frame, np.full(cut, edits[0][1], np.uint8)])
    check_then_decode(spec, frame)


@pytest.mark.parametrize("spec", SPECS)
def test_random_bodies_behind_a_valid_header(spec: str) -> None:
    random = np.random.default_rng(11)
    frame, _ = fresh(codec_of(spec), normal(N), ROWS)
    for number in range(200):
        body = random.integers(0, 256, frame.size - 16, np.uint8)
        body[random.random(body.size) < number / 250] = random.choice([0, 1, 0x80, 0xFF])
        flags = frame[:16].copy()
        flags[2] ^= number % 3 if number % 5 == 0 else 0
        check_then_decode(spec, np.concatenate([flags, body]))


@pytest.mark.parametrize("spec", SPECS)
def test_short_bytes_and_empty_slices(spec: str) -> None:
    codec = codec_of(spec)
    for length in range(16):
        with pytest.raises(FrameError, match="length: expected at least 16"):
            codec.check(np.zeros(length, np.uint8), ROWS, COLUMNS)
    frame, _ = fresh(codec, normal(0))
    check_then_decode(spec, frame, 0, 1)
    with pytest.raises(FrameError, match=r"length|indices|varint"):
        codec.check(np.concatenate([frame, np.zeros(4, np.uint8)]), 0, 1)


@pytest.mark.parametrize("spec", SPECS)
def test_frames_of_another_codec_version_or_size(spec: str) -> None:
    codec = codec_of(spec)
    frame, _ = fresh(codec, normal(N), ROWS)
    for at, text in ((0, "codec: expected"), (1, "version: expected 1"), (8, f"n: expected {N}"), (2, "flags|length")):
        wrong = frame.copy()
        wrong[at] ^= 0x5A
        with pytest.raises(FrameError, match=text):
            codec.check(wrong, ROWS, COLUMNS)
    with pytest.raises(FrameError, match="n: expected"):
        codec.check(frame, ROWS, COLUMNS + 1)


@pytest.mark.parametrize(
    ("theirs", "ours", "text"),
    [
        ("onebit:group=64", "onebit:group=32", "option: expected 32, got 64"),
        ("onebit:threshold=mean", "onebit", "flags: expected 0, got 1"),
        ("sign:group=64", "sign", "option: expected 512, got 64"),
        ("qsgd:levels=3", "qsgd", "flags: expected 263, got 259"),
        ("int8:block=8", "int8", "option: expected 512, got 8"),
        ("topk:ratio=0.1", "topk:ratio=0.2", "k: expected 45, got 23"),
        ("topk:ratio=0.1,values=fp16", "topk:ratio=0.1", "flags: expected 0 to 2, got"),
        ("dgc:ratio=0.5", "dgc:ratio=0.01", "k: expected 3 to 56, got 111"),
        ("threshold:t=0.1", "threshold:t=0.2,adaptive=false", "t: expected"),
        ("powersgd:rank=1", "powersgd:rank=2", "flags: expected 513, got 257"),
    ],
)
def test_frames_of_other_options_name_the_difference(theirs: str, ours: str, text: str) -> None:
    frame, _ = fresh(codec_of(theirs), normal(N), ROWS)
    with pytest.raises(FrameError, match=text):
        codec_of(ours).check(frame, ROWS, COLUMNS)


@pytest.mark.parametrize(
    ("spec", "at", "four", "text"),
    [
        ("onebit", 20, "0000807f", "v0, v1: expected finite, got NaN or Inf"),
        ("sign", 16, "0000c07f", "scale: expected 0 to"),
        ("sign", 16, "00000080", "scale: expected 0 to"),
        ("qsgd", 16, "ffff7f7f", "norm / levels: expected 0 to"),
        ("qsgd", 20, "ffffffff", "codes: expected at most 14, got 15"),
        ("int8", 16, "ffff7f7f", "scales: expected 0 to"),
        ("int8", 20, "80808080", "codes: expected -127 to 127, got -128"),
        ("fp16", 16, "00007f7f", "scales: expected a power of two"),
        ("fp16", 20, "0078ffff", "values: expected magnitude bits at most 0x77ff"),
        ("bf16", 16, "807f0000", "values: expected magnitude bits at most 0x7f7f"),
        ("powersgd", 16, "0000807f", "values: expected finite"),
        ("threshold:t=1", 4, "0000c07f", "t: expected"),
        ("threshold:t=1", 16, "ffffffff", "codes: expected 0, 1, 2, got code 3"),
        ("threshold:t=1", 68, "00000040", "codes: expected 0, 1, 2, got bits behind the last"),
    ],
)
def test_poisoned_fields_are_named(spec: str, at: int, four: str, text: str) -> None:
    codec = codec_of(spec)
    frame = fresh(codec, normal(N), ROWS)[0].copy()
    frame[at : at + 4] = np.frombuffer(bytes.fromhex(four), np.uint8)
    with pytest.raises(FrameError, match=text):
        codec.check(frame, ROWS, COLUMNS)


def sparse_frame(flags: int, k: int, index: bytes, n: int = 100, number: int = 7) -> UInt8:
    values = np.arange(1, k + 1, dtype="<f4").tobytes()
    return np.frombuffer(struct.pack("<BBHIQ", number, 1, flags, k, n) + index + values, np.uint8)


@pytest.mark.parametrize(
    ("flags", "index", "text"),
    [
        (0, struct.pack("<3I", 1, 5, 5), "indices: expected strictly ascending"),
        (0, struct.pack("<3I", 5, 1, 7), "indices: expected strictly ascending"),
        (0, struct.pack("<3I", 1, 5, 100), "indices: expected below 100, got 100"),
        (0, struct.pack("<2I", 1, 5), "length: expected 40, got 36"),
        (1, bytes([7]) + bytes(11) + b"\x10", "bits behind the last"),
        (1, bytes([3]) + bytes(12), "bitmap: expected 3, got 2"),
        (1, bytes([7]) + bytes(11), "length"),
        (2, bytes([1, 2]), "got 2 varints"),
        (2, bytes([1, 2, 3, 0x80]), "without an end"),
        (2, bytes([1, 2, 0x80, 0]), "longer than its number"),
        (2, bytes([1, 2, 0x80, 0x80, 0x80, 0x80, 0x80, 1]), "longer than its number"),
        (2, bytes([1, 2, 95]), "got index 100"),
        (2, bytes([1, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]), "got index"),
        (2, b"", "varints"),
        (3, b"", "flags: expected 0 to 2, got 3"),
        (4, b"", "flags: expected 0 to 2, got 4"),
    ],
)
def test_hostile_indices(flags: int, index: bytes, text: str) -> None:
    codec = codec_of("topk:ratio=0.03")
    for good in (sparse_frame(0, 3, struct.pack("<3I", 1, 5, 99)), sparse_frame(2, 3, bytes([1, 2, 94]))):
        codec.check(good, 100, 1)
    with pytest.raises(FrameError, match=text):
        codec.check(sparse_frame(flags, 3, index), 100, 1)


def test_powersgd_factors_whose_product_overflows() -> None:
    codec = codec_of("powersgd:rank=1")
    frame = fresh(codec, normal(N), ROWS)[0].copy()
    frame[16:].view(np.float32)[:] = 1e20
    with pytest.raises(FrameError, match=r"P Q\^T: expected finite"):
        codec.check(frame, ROWS, COLUMNS)


@pytest.mark.parametrize(
    "signed", [(1, -1), (0,), (-(2**31),), (2, 1), (161,), (-161,), tuple(range(1, 12))], ids=lambda s: str(s[:2])
)
def test_hostile_threshold_indices(signed: tuple[int, ...]) -> None:
    codec = codec_of("threshold:t=1")
    header = struct.pack("<BBHIf", 8, 1, 0, 0, 1.0)[:4] + struct.pack("<fQ", 1.0, 160)
    good = np.frombuffer(header + struct.pack("<3i", 1, -2, 160), np.uint8)
    codec.check(good, 160, 1)
    assert decoded(codec, good, 160)[[0, 1, 159]].tolist() == [1, -1, 1]
    with pytest.raises(FrameError, match=r"indices|length"):
        codec.check(np.frombuffer(header + struct.pack(f"<{len(signed)}i", *signed), np.uint8), 160, 1)


def test_varints_round_trip_at_every_length() -> None:
    edges = [0, 1, 128, 129, 258, 2**14, 2**15, 2**21 + 2**15, 2**28 + 2**22, 2**30, 2**32 - 1]
    index_K = np.array(edges, np.uint32)
    code = np.empty(kernels.varint_bytes(index_K), np.uint8)
    kernels.varint_encode(index_K, code)
    back_K = np.empty_like(index_K)
    assert kernels.varint_fault(code, len(edges), 2**32) == ""
    kernels.varint_decode(code, back_K)
    assert back_K.tolist() == edges
