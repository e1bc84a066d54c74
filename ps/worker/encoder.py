"""From gradients to what travels of them: adds what earlier frames have left, encodes, keeps what this one leaves.

Factors are exact: they leave nothing, and take nothing along. What a refused one held travels whole and dense next.

Error feedback (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019): residuals are in gradient units, by
slice, and belong to the worker's checkpoint. A frame that was refused goes back into them.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ps import factors, kernels
from ps.buffers import Buffer, Pool
from ps.compression.base import Codec, Memory
from ps.compression.choice import FACTORS, RAW, Codecs, Frame
from ps.errors import ConfigError, FrameError
from ps.factors import Factors
from ps.keyspace import Keyspace
from ps.types import Array, Float

log = logging.getLogger("ps")


def encoder_seed(seed: int | None, rank: int) -> int:
    """What all that is random in a worker's frames comes from, given the run's seed."""
    return ((seed or 0) << 20) + rank


class Packed:
    """One frame and the buffer that it lies in."""

    __slots__ = ("buffer", "codec", "length", "shared")

    def __init__(self, codec: int, buffer: Buffer, length: int = -1, shared: Array | None = None) -> None:
        self.codec, self.buffer, self.length = codec, buffer, length  # length in bytes; -1: all of the buffer
        self.shared = shared

    @property
    def frame(self) -> Frame:
        array = self.buffer.array
        return Frame(self.codec, array if self.length < 0 else array[: self.length], self.shared)


class Encoder:
    """The codecs of one worker, and what they remember of each slice."""

    def __init__(self, keyspace: Keyspace, codecs: Codecs, pool: Pool, seed: int = 0) -> None:
        self.keyspace, self.codecs, self.pool, self.seed = keyspace, codecs, pool, seed
        self.memory: dict[int, Memory] = {}  # by slice; of raw slices only while something is left
        self._codec: dict[int, Codec | None] = {}
        self._owed: set[int] = set()  # slices of which a frame of factors was refused

    def encodes(self, slice_id: int, clock: int) -> bool:
        """A push of this slice at this clock is encoded: its gradient is read once, and not kept."""
        codec = self.codec(slice_id)
        return codec is not None and clock >= codec.warmup and slice_id not in self._owed

    def pack(self, slice_id: int, grad: Buffer, clock: int, lr: float) -> Packed:
        """The frame of a gradient or delta pushed at `clock`; takes over the hold of `grad`. lr: the rate in force."""
        codec = self.codec(slice_id)
        memory = self.memory.get(slice_id) if codec is None else self._memory(slice_id)
        if memory is not None:
            self._rescale(memory, lr)
        if codec is None or memory is None or not self.encodes(slice_id, clock):
            self._owed.discard(slice_id)
            return Packed(RAW, self._with_residual(slice_id, grad))
        rows, columns = self._shape(slice_id)
        frame = self.pool.take("uint8", codec.bytes_max(rows, columns))
        length = codec.encode(grad.array, memory, frame.array)
        try:
            codec.check(frame.array[:length], rows, columns)
        except FrameError as error:  # the sum has overflowed: gradient and frame before were finite
            log.warning("residual of %s dropped: %s", self.keyspace.describe(slice_id), error)
            self.memory[slice_id] = codec.memory(rows, columns, self._seed(slice_id))
            frame.release()
            return Packed(RAW, self.pool.copy(grad.array) if grad.lent else grad)
        if length < grad.array.nbytes:
            grad.release()
            return Packed(codec.ID, frame, length)
        raw = self.pool.take("float32", grad.array.size)
        codec.decode(frame.array[:length], raw.array)
        frame.release()
        grad.release()
        return Packed(RAW, self._with_residual(slice_id, raw))

    def pack_factors(self, slice_id: int, grad: Factors, shared: Array) -> Packed:
        """The frame of a slice whose gradient are rows of a product. shared: its V, as it travels."""
        piece, columns = self.keyspace.slices[slice_id].pieces[0], grad.v.shape[1]
        data = factors.encode(grad, piece.start // columns, piece.stop // columns)
        return Packed(FACTORS, Buffer(self.pool, data, lent=True), shared=shared)  # of all lengths: nothing for a pool

    def refund(self, slice_id: int, packed: Packed, lr: float) -> None:
        """What a refused frame held travels with the next one (conservation, G9)."""
        item = self.keyspace.slices[slice_id]
        if not self.codecs.feeds_back(item):
            return
        memory = self._memory(slice_id)
        self._rescale(memory, lr)
        codec = self.codec(slice_id)
        if packed.codec == FACTORS:
            assert memory.residual_N is not None
            self.codecs.decode_add(item, packed.frame, memory.residual_N, 1.0)
            self._owed.add(slice_id)
        elif packed.codec == RAW or codec is None:
            assert memory.residual_N is not None
            memory.residual_N += packed.frame.data
        else:
            codec.refund(packed.frame.data, memory)

    def residual(self, slice_id: int) -> Float | None:
        """What is left of a slice; None where nothing is."""
        memory = self.memory.get(slice_id)
        return None if memory is None else memory.residual_N

    def codec(self, slice_id: int) -> Codec | None:
        """What this slice is encoded with; None: it travels raw."""
        if slice_id not in self._codec:
            self._codec[slice_id] = self.codecs.of_push(self.keyspace.slices[slice_id])
        return self._codec[slice_id]

    # ---- state ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, dict[str, Any]]:
        """Everything that is remembered, by the slice's name, as plain numbers and copies of arrays."""
        return {
            self.keyspace.describe(slice_id): {**_exported(memory), "owed": slice_id in self._owed}
            for slice_id, memory in self.memory.items()
        }

    def load_state(self, state: dict[str, dict[str, Any]]) -> None:
        """Goes on from what `state` gave. Slices that it does not name start afresh, and so do those of another codec.

        Raises: ConfigError for slices that are not there, or have another size.
        """
        ids = {self.keyspace.describe(slice_id): slice_id for slice_id in range(len(self.keyspace.slices))}
        if unknown := sorted(state.keys() - ids.keys()):
            known = ", ".join(ids) or "none yet"
            raise ConfigError(f"{unknown[0]}: expected a slice of this model ({known}), got another")
        self.memory.clear()
        self._owed.clear()
        for name, given in state.items():
            slice_id = ids[name]
            if self.codec(slice_id) is not None or self.codecs.feeds_back(self.keyspace.slices[slice_id]):
                self.memory[slice_id] = _restore(name, self._memory(slice_id), given)
                if given["owed"]:
                    self._owed.add(slice_id)

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _memory(self, slice_id: int) -> Memory:
        """What is remembered of this slice, from now on at the latest; of a raw one, all that is left."""
        if slice_id not in self.memory:
            codec, item = self.codec(slice_id), self.keyspace.slices[slice_id]
            if codec is None:
                self.memory[slice_id] = Memory(*self._shape(slice_id), np.zeros(item.size, item.dtype))
            else:
                self.memory[slice_id] = codec.memory(*self._shape(slice_id), self._seed(slice_id))
        return self.memory[slice_id]

    def _shape(self, slice_id: int) -> tuple[int, int]:
        item = self.keyspace.slices[slice_id]
        return item.rows, item.columns

    def _seed(self, slice_id: int) -> int:
        return (self.seed * 0x9E3779B1 + slice_id) & 0x7FFFFFFFFFFFFFFF

    def _with_residual(self, slice_id: int, grad: Buffer) -> Buffer:
        """The gradient and all that is left, which is nothing afterwards."""
        memory = self.memory.get(slice_id)
        if memory is None or memory.residual_N is None:
            return grad
        whole = self.pool.take(grad.array.dtype, grad.array.size) if grad.lent else grad
        kernels.add(grad.array, memory.residual_N, whole.array)
        memory.residual_N.fill(0)
        if self.codec(slice_id) is None:
            del self.memory[slice_id]
        return whole

    def _rescale(self, memory: Memory, lr: float) -> None:
        """Keeps the *step* that the residual stands for when the rate changes: e *= lr then / lr now."""
        if memory.residual_N is not None and memory.lr and lr and lr != memory.lr:
            kernels.scale_into(memory.residual_N, memory.lr / lr, memory.residual_N)
        memory.lr = lr


def _exported(memory: Memory) -> dict[str, Any]:
    arrays = dict(memory.arrays) if memory.residual_N is None else {**memory.arrays, "residual": memory.residual_N}
    copies = {name: array.copy() for name, array in arrays.items()}
    return {"seed": memory.seed, "encoded": memory.encoded, "lr": memory.lr, "arrays": copies}


def _restore(name: str, memory: Memory, given: dict[str, Any]) -> Memory:
    """Takes over what fits: arrays of another codec start afresh. Raises: ConfigError for another size of the slice."""
    seed, encoded, lr, residual = given["seed"], given["encoded"], given["lr"], given["arrays"].get("residual")
    if residual is not None and residual.shape != (memory.size,):
        raise ConfigError(f"{name}.residual: expected shape {(memory.size,)}, got {residual.shape}")
    arrays = {**memory.arrays, **({} if memory.residual_N is None else {"residual": memory.residual_N})}
    if all(name in given["arrays"] and given["arrays"][name].shape == array.shape for name, array in arrays.items()):
        for name, array in arrays.items():
            np.copyto(array, given["arrays"][name])
        memory.seed, memory.encoded, memory.lr = seed, encoded, lr
    return memory
