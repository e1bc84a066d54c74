"""What workers should have of slices whose pulls are compressed, computed once more beside them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ps.compression.base import Codec, Memory
from ps.compression.choice import RAW, SAME, Codecs, Frame
from ps.keyspace import Keyspace
from ps.types import Array


class Views:
    """Follows commits and reads. Trusts no mark: its views come from the values of each version alone."""

    def __init__(
        self, codecs: Codecs, keyspace: Keyspace, shared: bool, history: Mapping[int, Mapping[int, Array]]
    ) -> None:
        self.codecs, self.keyspace, self.shared, self.history = codecs, keyspace, shared, history
        self.by_version: dict[int, dict[int, Array]] = {}  # slice -> version -> the one view of all
        self.held: dict[tuple[int, int], Array] = {}  # (worker, slice) -> what it has
        self.memory: dict[tuple[int, int], Memory] = {}

    def codec(self, slice_id: int) -> Codec | None:
        """What values of this slice are encoded with."""
        return self.codecs.of_pull(self.keyspace.slices[slice_id])

    def start(self, slice_id: int, version: int) -> None:
        """The slice has its initial values."""
        self.by_version[slice_id] = {version: self.history[slice_id][version]}

    def commit(self, slice_id: int, version: int, clock: int) -> None:
        """A commit is in the history; where all workers share one view it moves."""
        codec, values = self.codec(slice_id), self.history[slice_id][version]
        if codec is not None and self.shared and clock > codec.warmup:
            values = self._moved(codec, -1, slice_id, self.by_version[slice_id][version - 1], values)
        self.by_version[slice_id][version] = values

    def expected(self, worker: int, slice_id: int, version: int, frame: Frame) -> Array | None:
        """What the worker should have after this answer, at this version; None: there is no such version."""
        if self.shared:
            return self.by_version.get(slice_id, {}).get(version)
        values = self.history.get(slice_id, {}).get(version)
        codec = self.codec(slice_id)
        if values is None or frame.codec == RAW or codec is None:
            return values
        return self._moved(codec, worker, slice_id, self.held[worker, slice_id], values)

    def received(self, worker: int, slice_id: int, frame: Frame) -> Array:
        """What the worker has after this answer, whatever it should be."""
        item, codec = self.keyspace.slices[slice_id], self.codec(slice_id)
        if frame.codec == RAW:
            self.held[worker, slice_id] = np.array(frame.data.view(item.dtype))
        elif frame.codec != SAME:
            assert codec is not None
            self.held[worker, slice_id] = self.held[worker, slice_id].copy()
            codec.decode_add(frame.data, self.held[worker, slice_id], 1.0)
        return self.held[worker, slice_id]

    def _moved(self, codec: Codec, worker: int, slice_id: int, view: Array, values: Array) -> Array:
        """The view after one frame towards `values`."""
        item = self.keyspace.slices[slice_id]
        with np.errstate(all="ignore"):
            if not np.isfinite(values - view).all():
                return values
        memory = self.memory.setdefault((worker, slice_id), Memory(item.rows, item.columns, None))
        frame = np.empty(codec.bytes_max(item.rows, item.columns), np.uint8)
        length = codec.encode(values - view, memory, frame)
        if length >= item.nbytes:
            return values
        moved = view.copy()
        codec.decode_add(frame[:length], moved, 1.0)
        return moved
