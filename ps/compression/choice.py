"""Which codec a slice travels with: the run's, or its parameter's own; raw where a codec could not help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from ps import factors, kernels
from ps.compression import compressor
from ps.compression.base import Codec
from ps.compression.none import Identity
from ps.errors import FrameError
from ps.keyspace import Slice
from ps.messages import FACTORS, RAW, SAME
from ps.types import Array, Float, Float32

__all__ = ["FACTORS", "RAW", "SAME", "Codecs", "Frame", "checked"]


class Frame(NamedTuple):
    """What travels of one slice. data: of its master dtype where it is raw, else bytes. shared: with other frames."""

    codec: int
    data: Array
    shared: Array | None = None


_built = cache(compressor)


@dataclass(frozen=True)
class Codecs:
    """The codecs of a run, both ways."""

    push: str = "none"
    pull: str = "none"

    def of_push(self, item: Slice) -> Codec | None:
        """What gradients of this slice are encoded with; None: they travel raw."""
        return _fitting(self._push(item), item)

    def of_pull(self, item: Slice) -> Codec | None:
        """What values of this slice are encoded with; None: they travel raw."""
        return _fitting(_built(item.options.pull_compression or self.pull), item)

    def push_bytes(self, item: Slice) -> int:
        """Bytes of payload that a push of this slice takes at most."""
        return _bytes_max(self.of_push(item), item)

    def pull_bytes(self, item: Slice) -> int:
        """Bytes of payload that a pull of this slice takes at most."""
        return _bytes_max(self.of_pull(item), item)

    def feeds_back(self, item: Slice) -> bool:
        """What a push of this slice loses, by its codec or by a refusal, travels with the next one."""
        return self._push(item).error_feedback

    def check_push(self, item: Slice, frame: Frame) -> None:
        """Raises: FrameError unless `decode_add` can take this frame of a push of the slice, which is not raw."""
        if frame.codec != FACTORS or item.dtype != "float32":
            checked(self.of_push(item), frame, item)
        else:
            factors.check(frame.data, frame.shared, item.rows, item.columns)

    def decode_add(self, item: Slice, frame: Frame, out_N: Float32, weight: float) -> None:
        """out += float32(weight) * decoded; the frame has passed `check_push`."""
        if frame.codec == FACTORS:
            assert frame.shared is not None
            factors.decode_add(frame.data, frame.shared, out_N, weight)
        else:
            self._of_frame(item).decode_add(frame.data, out_N, weight)

    def mean(self, item: Slice, frames: Sequence[Frame], weights: Sequence[float], total: float, out_N: Float) -> None:
        """out = (sum in the given order of its dtype(weight) * decoded) / its dtype(total); total 1: the sum alone.

        Frames that are not raw have passed `check_push`. Where there is one the sum starts from zeros.
        """
        codecs, data = {frame.codec for frame in frames}, [frame.data for frame in frames]
        if codecs == {RAW}:
            kernels.weighted_sum(data, weights, total, out_N)
        elif codecs.isdisjoint((RAW, FACTORS)):
            self._of_frame(item).mean(data, weights, total, out_N)
        else:  # some with a codec, some as they are
            out_N.fill(0.0)
            for frame, weight in zip(frames, weights, strict=True):
                if frame.codec == RAW:
                    kernels.weighted_sum([out_N, frame.data], [1.0, weight], 1.0, out_N)
                else:
                    self.decode_add(item, frame, out_N, weight)
            if total != 1.0:
                kernels.divide(out_N, total, out_N)

    def _of_frame(self, item: Slice) -> Codec:
        codec = self.of_push(item)
        assert codec is not None  # frames are checked as they come
        return codec

    @property
    def of_anything(self) -> bool:
        """The run compresses at least one direction; single parameters may differ."""
        return not all(isinstance(_built(spec), Identity) for spec in (self.push, self.pull))

    def _push(self, item: Slice) -> Codec | Identity:
        return _built(item.options.push_compression or self.push)


def checked(codec: Codec | None, frame: Frame, item: Slice) -> Codec:
    """The codec that can decode this frame of the slice, as it came over the wire.

    Raises: FrameError when it was encoded with another one, or is broken.
    """
    if codec is None or frame.codec != codec.ID:
        raise FrameError(f"codec: expected {RAW if codec is None else codec.ID}, got {frame.codec}")
    if frame.shared is not None:
        raise FrameError(f"shared buffer: expected none with codec {codec.ID}, got one")
    codec.check(frame.data, item.rows, item.columns)
    return codec


def _bytes_max(codec: Codec | None, item: Slice) -> int:
    return item.nbytes if codec is None else min(codec.bytes_max(item.rows, item.columns), item.nbytes)


def _fitting(codec: Codec | Identity, item: Slice) -> Codec | None:
    if isinstance(codec, Identity) or item.dtype != "float32" or not item.trainable:
        return None
    return codec if item.smallest >= codec.min_elements else None
