"""What every codec must hold, as one call for the tests of its author: `check_codec(Mine(ratio=0.1))`."""

from __future__ import annotations

from functools import partial

import numpy as np

from ps.buffers import Pool
from ps.compression.base import Codec, Memory
from ps.errors import FrameError
from ps.types import Float32, UInt8

SHAPES = ((0, 1), (1, 1), (1, 7), (24, 40), (1, 1003))
STEPS = 12


def check_codec(codec: Codec, *, conserves: bool = True) -> None:
    """Raises AssertionError, saying which rule `codec` breaks; returns when it holds them all.

    For slices of several shapes, zeros, subnormal and huge numbers among them: a frame fits `bytes_max`, passes its own
    `check` and decodes to finite numbers; `decode_add` adds float32(weight) times what `decode` gives; the gradient
    stays as it was; a replay gives the same bytes; `mean` and `move` give those of their definitions in `Codec`;
    `check` refuses a frame that is cut or of another slice. With error feedback, what was sent, refunded and left sums
    up to what was given (G1, G9). conserves: False for a codec that says it loses something for good, or adds something
    of its own, such as momentum.
    """
    for rows, columns in SHAPES:
        for kind, grad_N in _gradients(rows * columns).items():
            _check_frame(codec, rows, columns, grad_N, f"{codec}, {rows} x {columns}, {kind}")
        _check_replay(codec, rows, columns)
        if conserves and codec.error_feedback:
            _check_conservation(codec, rows, columns)
        _check_mean(codec, rows, columns)
        if codec.PULLS is None:
            _check_move(codec, rows, columns)


def _gradients(n: int) -> dict[str, Float32]:
    normal = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    return {
        "zeros": np.zeros(n, np.float32),
        "normal": normal,
        "subnormal": normal * np.float32(1e-40),
        "huge": normal * np.float32(1e36),
        "one huge": np.where(np.arange(n) == n // 2, np.float32(-3e38), np.float32(0)),
    }


def _encoded(codec: Codec, grad_N: Float32, memory: Memory) -> UInt8:
    frame = np.zeros(codec.bytes_max(memory.rows, memory.columns), np.uint8)
    length = codec.encode(grad_N, memory, frame)
    assert 0 <= length <= frame.size, f"{codec}: expected at most bytes_max = {frame.size} bytes, got {length}"
    return frame[:length]


def _check_frame(codec: Codec, rows: int, columns: int, grad_N: Float32, where: str) -> None:
    given = grad_N.copy()
    grad_N.flags.writeable = False
    frame = _encoded(codec, grad_N, codec.memory(rows, columns))
    assert grad_N.tobytes() == given.tobytes(), f"{where}: the gradient was written"
    codec.check(frame, rows, columns)
    plain_N, out_N = np.empty_like(given), np.ones_like(given)
    codec.decode(frame, plain_N)
    assert np.isfinite(plain_N).all(), f"{where}: decodes to NaN or Inf"
    if np.abs(plain_N).max(initial=0) < 1e38:
        codec.decode_add(frame, out_N, 0.3)
        wanted_N = np.float32(1) + np.float32(0.3) * plain_N
        assert out_N.tobytes() == wanted_N.tobytes(), f"{where}: decode_add is not out + float32(weight) * decode"
    for wrong, shape in ((frame[:-1], (rows, columns)), (frame, (rows + 1, columns + 1))):
        try:
            codec.check(wrong, *shape)
        except FrameError:
            continue
        raise AssertionError(f"{where}: check takes {wrong.size} bytes for {shape[0]} x {shape[1]}")


def _check_replay(codec: Codec, rows: int, columns: int) -> None:
    runs = []
    for _ in range(2):
        memory = codec.memory(rows, columns, seed=5)
        grads = (np.random.default_rng(step).standard_normal(rows * columns) for step in range(3))
        runs.append([_encoded(codec, grad.astype(np.float32), memory).tobytes() for grad in grads])
        assert memory.encoded == 3, f"{codec}: expected memory.encoded to count 3 frames, got {memory.encoded}"
    assert runs[0] == runs[1], f"{codec}, {rows} x {columns}: equal gradients and seeds give other bytes"


def _check_mean(codec: Codec, rows: int, columns: int) -> None:
    """A codec may compute it in one pass of its own: to the bytes of what `Codec.mean` says."""
    grads = [np.random.default_rng(seed).standard_normal(rows * columns).astype(np.float32) for seed in range(3)]
    frames = [_encoded(codec, grad, codec.memory(rows, columns)) for grad in grads]
    got_N, wanted_N = np.ones_like(grads[0]), np.zeros_like(grads[0])
    codec.mean(frames, (0.3, 1.0, 7.0), 8.3, got_N)
    Codec.mean(codec, frames, (0.3, 1.0, 7.0), 8.3, wanted_N)
    same = got_N.tobytes() == wanted_N.tobytes()
    assert same, f"{codec}, {rows} x {columns}: mean is not the weighted sum of what decodes, divided"


def _check_move(codec: Codec, rows: int, columns: int) -> None:
    """As `_check_mean`, for what the codecs of pulls do."""
    where, rng = f"{codec}, {rows} x {columns}", np.random.default_rng(7)
    w_N, before_N = rng.standard_normal((2, rows * columns)).astype(np.float32)
    moved, frame = [], np.zeros(codec.bytes_max(rows, columns), np.uint8)
    for move in (codec.move, partial(Codec.move, codec)):
        view_N = before_N.copy()
        length = move(w_N, view_N, Memory(rows, columns, None), frame, Pool())
        moved.append((length, frame[:length].tobytes(), view_N.tobytes()))
    assert moved[0] == moved[1], f"{where}: move is not an encoded difference, added to the view"
    w_N[:1] = np.nan
    length = codec.move(w_N, before_N, Memory(rows, columns, None), frame, Pool())
    assert not w_N.size or length is None, f"{where}: move takes NaN"


def _check_conservation(codec: Codec, rows: int, columns: int) -> None:
    memory, n = codec.memory(rows, columns), rows * columns
    sent_N, given_N, out_N = np.zeros(n), np.zeros(n), np.empty(n, np.float32)
    for step in range(STEPS):
        grad_N = np.random.default_rng(step).standard_normal(n).astype(np.float32)
        given_N += grad_N
        frame = _encoded(codec, grad_N, memory)
        if step % 3 == 2:
            codec.refund(frame, memory)
            continue
        codec.decode(frame, out_N)
        sent_N += out_N
    assert memory.residual_N is not None, f"{codec}: error feedback without a residual"
    lost = float(np.abs(sent_N + memory.residual_N - given_N).max(initial=0))
    assert lost < 1e-5 * STEPS, f"{codec}, {rows} x {columns}: sent + left differs from given by {lost:.1e}"
