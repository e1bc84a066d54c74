"""Who holds a buffer, and when its memory is used again."""

from __future__ import annotations

import threading

import numpy as np

from ps.buffers import Buffer, Pool


def test_a_buffer_comes_back_when_its_last_holder_lets_go() -> None:
    pool = Pool()
    first = pool.take("float32", 8)
    reply = first.hold()
    first.release()
    assert pool.take("float32", 8).array is not first.array, "a reply still holds it"
    reply.release()
    again = pool.take("float32", 8)
    assert again.array is first.array and again.holders == 1


def test_pools_keep_dtypes_and_sizes_apart() -> None:
    pool = Pool()
    free = pool.take("float32", 8)
    free.release()
    for dtype, size in (("float64", 8), ("float32", 4), ("int32", 8)):
        taken = pool.take(dtype, size)
        assert (taken.array.dtype, taken.array.size) == (np.dtype(dtype), size)
    assert pool.take("float32", 8).array is free.array


def test_the_memory_that_came_back_last_is_used_first() -> None:
    pool = Pool()
    cold, warm = pool.take("float32", 8), pool.take("float32", 8)
    cold.release()
    warm.release()
    assert pool.take("float32", 8).array is warm.array


def test_a_lent_array_never_enters_the_pool() -> None:
    pool = Pool()
    mine = np.zeros(8, np.float32)
    Buffer(pool, mine, lent=True).release()
    assert pool.take("float32", 8).array is not mine


def test_holders_are_counted_across_threads() -> None:
    pool = Pool()
    buffer = pool.take("float32", 8)

    def hold_and_let_go() -> None:
        for _ in range(500):
            buffer.hold().release()

    threads = [threading.Thread(target=hold_and_let_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert buffer.holders == 1
    buffer.release()
    assert pool.take("float32", 8).array is buffer.array
    assert pool.take("float32", 8).array is not buffer.array, "it came back once"
