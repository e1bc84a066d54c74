"""Where a message that is large is cut into parts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ps.types import Int64
from ps.wire import LEAST_BYTES, PART_BYTES
from ps.worker.actions import Thin

NOTHING_THIN: Mapping[int, Thin] = {}


def cut(ids: Int64, nbytes_S: Int64, thin: Mapping[int, Thin] = NOTHING_THIN) -> list[Int64]:
    """Cuts a list of slices where their bytes pass PART_BYTES: the shard works on the first while the next come.

    Slices that share a buffer stay together: it travels once.
    """
    nbytes_E = np.maximum(nbytes_S[ids], LEAST_BYTES)
    if not thin and int(nbytes_E.sum()) < PART_BYTES:
        return [ids]
    joined_E = np.zeros(max(len(ids) - 1, 0), np.bool_)  # with the one before
    if thin:
        known = [thin.get(slice_id) for slice_id in ids.tolist()]
        nbytes_E = np.array(
            [int(n) if one is None else max(one.nbytes, LEAST_BYTES) for n, one in zip(nbytes_E, known, strict=True)]
        )
        group = [-1 - place if one is None else one.group for place, one in enumerate(known)]
        joined_E = np.diff(group) == 0
    cut_E = (np.diff(np.cumsum(nbytes_E) // PART_BYTES) > 0) & ~joined_E
    return np.split(ids, np.flatnonzero(cut_E) + 1)
