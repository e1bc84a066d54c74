"""The arrays of one worker: frames that are not settled, the replica, what is accumulated, the residuals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ps import kernels
from ps.buffers import Buffer, Pool
from ps.compression.choice import RAW, SAME, Codecs, Frame, checked
from ps.consistency import Cadence
from ps.errors import FrameError
from ps.keyspace import Keyspace, numpy_dtype
from ps.types import Array, Float
from ps.worker.encoder import Encoder, Packed


class Arrays:
    """Everything by slice id; the Session says when."""

    def __init__(
        self, keyspace: Keyspace, cadence: Cadence, keeps_replica: bool, codecs: Codecs = Codecs(), seed: int = 0
    ) -> None:
        self.keyspace, self.cadence, self.keeps_replica, self.codecs = keyspace, cadence, keeps_replica, codecs
        self.pool = Pool()
        self.encoder = Encoder(keyspace, codecs, self.pool, seed)
        self.frames: dict[tuple[int, int], Packed] = {}  # (push, slice)
        self.view: dict[int, Array] = {}  # what this worker has of slices whose pulls are compressed
        self.replica: dict[int, Array] = {}
        self.pulled: dict[int, Array] = {}  # the replica as it was pulled, where deltas travel
        self.summed: dict[int, Array | None] = {}  # accumulated weight * gradient; None where the delta travels
        self.weights: dict[int, float] = {}  # clock -> weight of its accumulated pushes

    # ---- pushing ----------------------------------------------------------------------------------------------------

    def gather(self, slice_id: int, grads: Mapping[str, Array], copy: bool) -> Buffer:
        """One slice's gradient in the master dtype, from the arrays of its parameters; no copy only where possible."""
        item = self.keyspace.slices[slice_id]
        travels_as_is = self.cadence.carries == "gradient" and self.cadence.push_every == 1
        if not copy and travels_as_is and len(item.pieces) == 1:
            piece = item.pieces[0]
            flat = grads[self.keyspace.parameters[piece.parameter].name]
            if flat.dtype == np.dtype(item.dtype) and flat.flags.c_contiguous:  # a swapped byte order is another
                return Buffer(self.pool, flat.reshape(-1)[piece.start : piece.stop], lent=True)
        buffer = self.pool.take(item.dtype, item.size)
        arrays = [grads[self.keyspace.parameters[piece.parameter].name] for piece in item.pieces]
        if len(arrays) == 1:
            arrays = [arrays[0].reshape(-1)[item.pieces[0].start : item.pieces[0].stop]]
        np.concatenate(arrays, axis=None, out=buffer.array, casting="unsafe")  # of bundles whole parameters, flattened
        return buffer

    def clip(self, grads: Iterable[Buffer], norm_max: float) -> None:
        """Scales the whole gradient down to this 2-norm (Pascanu et al., ICML 2013)."""
        grads = list(grads)
        norm = math.sqrt(sum(kernels.sum_of_squares(buffer.array) for buffer in grads))
        if norm > norm_max:
            for buffer in grads:
                kernels.scale_into(buffer.array, norm_max / norm, buffer.array)

    def accumulate(self, slice_id: int, grad_N: Float, weight: float) -> None:
        """Takes note of a push that travels later: adds weight * gradient, where gradients travel."""
        if self.cadence.carries == "delta":
            self.summed.setdefault(slice_id, None)  # the replica has it already
            return
        total_N = self.summed.get(slice_id)
        if total_N is None:
            total_N = self.summed[slice_id] = np.zeros(grad_N.size, grad_N.dtype)
        scaled = self.pool.take(grad_N.dtype, grad_N.size)
        kernels.scale_into(grad_N, weight, scaled.array)
        total_N += scaled.array
        scaled.release()

    def collect(self, slice_ids: Iterable[int], weight: float) -> dict[int, Buffer]:
        """What travels of the pushes since the last time: the accumulated gradient, the replica's delta, or a share
        of its distance from the values."""
        frames = {}
        for slice_id in slice_ids:
            total_N = self.summed.pop(slice_id)
            item = self.keyspace.slices[slice_id]
            frames[slice_id] = self.pool.take(item.dtype, item.size)
            frame_N = frames[slice_id].array
            if total_N is not None:
                kernels.divide(total_N, weight, frame_N)
            elif self.cadence.elastic is None:
                np.subtract(self.pulled[slice_id], self.replica[slice_id], out=frame_N)
            else:
                np.subtract(self.replica[slice_id], self.pulled[slice_id], out=frame_N)
                kernels.scale_into(frame_N, self.cadence.elastic, frame_N)
        return frames

    def settle(self, push: int, slice_id: int, refused: bool, lr: float) -> None:
        """The frame is no longer needed; a refused one goes back into the residual."""
        packed = self.frames.pop((push, slice_id))
        if refused:
            self.encoder.refund(slice_id, packed, lr)
        packed.buffer.release()

    # ---- the replica ------------------------------------------------------------------------------------------------

    def step(self, slice_id: int, grad_N: Float, lr: float) -> None:
        """Steps the replica as the server's plain SGD would."""
        replica = self.replica.get(slice_id)
        if replica is not None:
            options = self.keyspace.slices[slice_id].options
            decay = 0.0 if options.weight_decay is None or self.cadence.local_lr is not None else options.weight_decay
            kernels.sgd(replica, grad_N, replica, lr * options.lr_scale, decay)

    def store(self, slice_id: int, values_N: Array) -> None:
        """Fresh values of a slice."""
        replica_N = self.replica.get(slice_id)
        if replica_N is None:
            self.replica[slice_id] = np.array(values_N)
        elif self.cadence.mix and self.keyspace.slices[slice_id].trainable:  # values + mix * (replica - values)
            np.subtract(replica_N, values_N, out=replica_N)
            kernels.scale_into(replica_N, self.cadence.mix, replica_N)
            np.add(replica_N, values_N, out=replica_N)
        elif self.cadence.elastic is None:
            np.copyto(replica_N, values_N)
        if self.cadence.carries == "delta":
            if slice_id not in self.pulled:
                self.pulled[slice_id] = np.empty(values_N.size, values_N.dtype)
            np.copyto(self.pulled[slice_id], values_N)

    # ---- compressed pulls -------------------------------------------------------------------------------------------

    def look(self, slice_id: int, codec: int, data: Array) -> Array:
        """This worker's view of a slice after one more answer. Raises: FrameError for a frame that cannot be one."""
        item = self.keyspace.slices[slice_id]
        view_N = self.view.get(slice_id)
        if codec == RAW:
            if view_N is None:
                view_N = self.view[slice_id] = np.empty(item.size, item.dtype)
            np.copyto(view_N, data.view(item.dtype))
        elif view_N is None:
            raise FrameError(f"{self.keyspace.describe(slice_id)}: expected values, got a frame; nothing is here yet")
        elif codec != SAME:
            checked(self.codecs.of_pull(item), Frame(codec, data), item).decode_add(data, view_N, 1.0)
        return view_N

    # ---- values to the caller ---------------------------------------------------------------------------------------

    def outputs(self, names: Iterable[str], out: Mapping[str, Array] | None) -> dict[str, Array]:
        """The arrays that a pull fills: the caller's, or fresh ones of the registered shape and dtype."""
        made = {}
        for name in names:
            parameter = self.keyspace.parameters[self.keyspace.index_of[name]]
            given = None if out is None else out.get(name)
            made[name] = np.empty(parameter.shape, numpy_dtype(parameter.dtype)) if given is None else given
        return made

    def deliver(self, slice_id: int, values_N: Array, outputs: Mapping[str, Array]) -> None:
        """Copies one slice into the arrays of its parameters, as far as they are wanted."""
        parameters = self.keyspace.parameters
        for piece in self.keyspace.slices[slice_id].pieces:
            target = outputs.get(parameters[piece.parameter].name)
            if target is not None:
                flat = target.reshape(-1)  # contiguous: checked by the client
                flat[piece.start : piece.stop] = values_N[piece.offset : piece.offset + piece.stop - piece.start]
