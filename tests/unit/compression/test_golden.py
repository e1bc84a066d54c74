"""One frame per wire layout, kept as bytes: a change to any of them breaks peers of another version.

The vectors in tests/golden were written by these codecs after the plain-Python decoder in oracle.py had agreed. Where
floating sums by BLAS come in (powersgd), only decoding is pinned.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ps.types import UInt8
from tests.unit.compression import oracle
from tests.unit.compression.helpers import codec_of, decoded, fresh, sawtooth

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
ROWS, COLUMNS = 10, 14
VECTORS = {  # file -> spec; the gradient is sawtooth(140), the seed 7
    "onebit_zero": "onebit:group=45",
    "onebit_mean": "onebit:group=45,threshold=mean",
    "sign": "sign:group=45",
    "qsgd_l2_3bit": "qsgd:levels=3,bucket=64,norm=l2",
    "qsgd_max_6bit": "qsgd:levels=16,bucket=64",
    "int8": "int8:block=45",
    "fp16": "fp16",
    "bf16": "bf16",
    "topk_pairs": "topk:ratio=0.05",
    "topk_bitmap": "topk:ratio=0.2",
    "topk_varint": "topk:ratio=0.05",
    "topk_varint_halves": "topk:ratio=0.05,values=fp16",
    "threshold_sparse": "threshold:t=3",
    "threshold_dense": "threshold:t=0.5",
    "dgc": "dgc:ratio=0.05,stage=0",
    "powersgd_raw": "powersgd:rank=3",
    "powersgd_factors": "powersgd:rank=1",
}
DECODE_ONLY = ("topk_pairs", "powersgd_factors")  # pairs win only where a gap takes four bytes: below, by hand


def golden(name: str) -> UInt8:
    return np.frombuffer(bytes.fromhex((GOLDEN / f"{name}.hex").read_text()), np.uint8)


@pytest.mark.parametrize("name", VECTORS)
def test_golden_frames_pass_and_decode_as_the_layout_says(name: str) -> None:
    codec, frame, n = codec_of(VECTORS[name]), golden(name), ROWS * COLUMNS
    codec.check(frame, ROWS, COLUMNS)
    assert np.array_equal(decoded(codec, frame, n), np.array(oracle.decode(frame.tobytes()), np.float32))


@pytest.mark.parametrize("name", [name for name in VECTORS if name not in DECODE_ONLY])
def test_golden_gradients_give_golden_frames(name: str) -> None:
    frame, _ = fresh(codec_of(VECTORS[name]), sawtooth(ROWS * COLUMNS), ROWS)
    assert frame.tobytes().hex() == golden(name).tobytes().hex()


def test_the_vector_of_the_reference() -> None:
    codec = codec_of("onebit:group=5")
    grad_N = np.array([1, -2, 3, 0, -4, 0.5, 0.5, -0.0], np.float32)
    frame, memory = fresh(codec, grad_N)
    assert frame.tobytes() == bytes.fromhex(
        "01010000 05000000 0800000000000000 000040c0 abaaaa3f 0d000000 00000000 abaaaa3e 07000000"
    )
    third = np.float32(1) / np.float32(3)
    level = np.float32(4) / np.float32(3)
    expected = np.array([level, -3, level, level, -3, third, third, third], np.float32)
    assert np.array_equal(decoded(codec, frame, 8), expected)
    assert memory.residual_N is not None and np.array_equal(memory.residual_N, grad_N - expected)
