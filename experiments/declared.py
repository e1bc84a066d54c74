"""Steps whose compute is only declared, for predictions to be held against: `--compute-s` of the run says how long."""

from __future__ import annotations

import argparse
from contextlib import suppress

import numpy as np

import ps


def main() -> None:
    """Pulls, pushes and ticks, until it has done so often enough or is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kb", type=int, default=1600, help="of all values, %(default)s")
    parser.add_argument("--layers", type=int, default=4, help="parameters that share them, %(default)s")
    parser.add_argument("--clocks", type=int, default=10**9, help="steps of each worker, at most")
    args = parser.parse_args()
    rows = max(args.kb * 250 // args.layers // 100, 1)
    values = {f"layer {i}": np.zeros((rows, 100), np.float32) for i in range(args.layers)}
    random = np.random.default_rng(1)
    grads = {name: random.standard_normal((rows, 100)).astype(np.float32) for name in values}
    with ps.connect() as client, suppress(ps.StoppedError):
        client.register(values)
        client.barrier()
        while client.clock < args.clocks and not client.should_stop:
            client.pull()
            client.push(grads)
            client.tick()
            if client.rank == 0 and client.clock % 10 == 0:
                client.log(clocks=client.clock)


if __name__ == "__main__":
    main()
