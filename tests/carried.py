"""Worker state as a checkpoint carries it: through MessagePack with its strict defaults, arrays as bytes."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np


def carried(state: Any) -> Any:
    """`state` after a round trip. Raises: TypeError for tuples, tensors, NumPy scalars."""
    packed = msgpack.packb(state, default=_packed, strict_types=True)
    return msgpack.unpackb(packed, object_hook=_unpacked)


def _packed(value: Any) -> Any:
    if type(value) is np.ndarray:
        return {"dtype": str(value.dtype), "shape": list(value.shape), "array": value.tobytes()}
    raise TypeError(f"no plain type: {type(value)}")


def _unpacked(value: dict[str, Any]) -> Any:
    if value.keys() == {"dtype", "shape", "array"}:
        return np.frombuffer(value["array"], np.dtype(value["dtype"])).reshape(value["shape"])  # nobody writes to it
    return value
