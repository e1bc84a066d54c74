"""Arrays that several hold and nobody writes meanwhile, from pools that stay mapped: fresh pages cost ten copies."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np

from ps.types import Array


class UnderWay:
    """Counts the parts of something that a transport still holds. Safe to use from any thread."""

    def __init__(self) -> None:
        self._parts: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def begin(self, key: Hashable) -> None:
        """One more part of it is handed over."""
        with self._lock:
            self._parts[key] += 1

    def end(self, key: Hashable) -> None:
        """The transport has let one go."""
        with self._lock:
            self._parts[key] -= 1
            if not self._parts[key]:
                del self._parts[key]

    def __contains__(self, key: object) -> bool:
        return key in self._parts


class Pool:
    """Free buffers by dtype (its character: a name takes microseconds) and size. Safe to use from any thread."""

    def __init__(self) -> None:
        self._free: dict[tuple[str, int], list[Array]] = {}
        self.lock = threading.Lock()

    def take(self, dtype: np.dtype[Any] | str, size: int) -> Buffer:
        """A buffer of `size` elements with one holder, its content arbitrary."""
        key = (np.dtype(dtype).char, size)
        with self.lock:
            free = self._free.get(key)
            array = free.pop() if free else None
        return Buffer(self, np.empty(size, dtype) if array is None else array)

    def copy(self, array: Array) -> Buffer:
        """A buffer with this content, and one holder."""
        copied = self.take(array.dtype, array.size)
        np.copyto(copied.array, array)
        return copied

    def give_back(self, array: Array) -> None:
        """For `Buffer.release` alone."""
        with self.lock:
            self._free.setdefault((array.dtype.char, array.size), []).append(array)


class Buffer:
    """An array and the count of those who hold it. Writing is allowed to a sole holder only."""

    __slots__ = ("array", "holders", "lent", "pool")

    def __init__(self, pool: Pool, array: Array, lent: bool = False) -> None:
        self.pool, self.array, self.holders = pool, array, 1
        self.lent = lent  # the array is somebody else's: it never enters the pool

    def hold(self) -> Buffer:
        with self.pool.lock:
            self.holders += 1
        return self

    def release(self) -> None:
        with self.pool.lock:
            self.holders -= 1
            last = self.holders == 0
        if last and not self.lent:
            self.pool.give_back(self.array)
