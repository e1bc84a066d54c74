"""Steps of a whole cluster in this process: 1,000 parameters of 64 bytes and one of 4 MB, and no computing at all.

Every step is pull, push, tick, and moves the model twice for each worker; `bytes_moved` counts that. Beside it stand
the copies that no exchange through memory can avoid (`copies`) and one process that steps the same arrays itself
(`bare_sgd`). Under `bsp`, and with one worker, the cluster must end on the very bytes of `bare_sgd`: same checksum.
"""

from __future__ import annotations

import numpy as np

import ps
from benchmarks.harness import Bench, Function, checksum, seeded_normal
from ps.types import Array, Float

LR = 0.1


def model(bench: Bench) -> tuple[dict[str, Float], dict[str, Float]]:
    """(initial values, gradients) by name: many small arrays, which travel as one bundle, and a large one."""
    small, rows = bench.size(smoke=20, full=1_000), bench.size(smoke=64, full=1_024)
    shapes = {f"small{i}": (16,) for i in range(small)} | {"large": (rows, 1_024)}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    cuts = np.cumsum(sizes)[:-1]

    def cut(flat_N: Float) -> dict[str, Float]:
        parts = np.split(flat_N, cuts)
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    return cut(seeded_normal(sum(sizes), seed=1)), cut(seeded_normal(sum(sizes), seed=2))


def nbytes(arrays: dict[str, Float]) -> int:
    """Payload of the model."""
    return sum(array.nbytes for array in arrays.values())


def steps_of(bench: Bench) -> int:
    """Steps of each worker."""
    return bench.size(smoke=2, full=50)


def bench_copies(bench: Bench) -> None:
    """The model copied twice a step, each time in one piece: gradients out, values in."""
    values, _ = model(bench)
    steps, source_N = steps_of(bench), np.concatenate([array.reshape(-1) for array in values.values()])
    target_N = np.zeros_like(source_N)
    with bench.timed(bytes_moved=2 * steps * source_N.nbytes):
        for _ in range(2 * steps):
            np.copyto(target_N, source_N)
    bench.check(checksum(target_N))


def bench_bare_sgd(bench: Bench) -> None:
    """The same steps by one process on its own arrays. It moves nothing; the count is the cluster's, to compare."""
    values, grads = model(bench)
    steps, scratch = steps_of(bench), {name: np.zeros_like(grad) for name, grad in grads.items()}
    with bench.timed(bytes_moved=2 * steps * nbytes(values)):
        for _ in range(steps):
            for name, grad in grads.items():
                np.multiply(grad, LR, out=scratch[name])
                np.subtract(values[name], scratch[name], out=values[name])
    bench.check(checksum(*values.values()))


def cluster_steps(consistency: str, workers: int, *, virtual: bool = False, reuse: bool = False) -> Function:
    """One server; timed between two barriers of all workers. reuse: every pull fills the same arrays."""

    def bench_cluster(bench: Bench) -> None:
        values, grads = model(bench)
        steps = steps_of(bench)
        bytes_moved = 2 * steps * workers * nbytes(values)

        def loop(client: ps.Client) -> None:
            params: dict[str, Array] | None = None
            for _ in range(steps):
                params = client.pull(out=params if reuse else None)
                client.push(grads)
                client.tick()
            client.barrier()

        def train(client: ps.Client) -> None:
            client.register(values)
            client.barrier()
            if client.rank == 0:
                with bench.timed(bytes_moved=bytes_moved):
                    loop(client)
            else:
                loop(client)

        seed = 1 if virtual else None
        optimizer = f"sgd:lr={LR}"
        with ps.LocalCluster(workers=workers, seed=seed, consistency=consistency, optimizer=optimizer) as cluster:
            cluster.run(train)
            bench.check(int(cluster.checksum(), 16))

    return bench_cluster


bench_threads_bsp_1 = cluster_steps("bsp", workers=1)
bench_threads_bsp_1_reuse = cluster_steps("bsp", workers=1, reuse=True)
bench_threads_bsp_2 = cluster_steps("bsp", workers=2)
bench_threads_async_1 = cluster_steps("async", workers=1)
bench_threads_async_2 = cluster_steps("async", workers=2)
bench_virtual_bsp_1 = cluster_steps("bsp", workers=1, virtual=True)
bench_virtual_bsp_2 = cluster_steps("bsp", workers=2, virtual=True)
bench_virtual_async_1 = cluster_steps("async", workers=1, virtual=True)
bench_virtual_async_2 = cluster_steps("async", workers=2, virtual=True)
