"""Steps with nothing in them, for what messages cost by themselves; `ps.predict.measure` runs it as a script."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

import ps


def main() -> None:
    """Until it is told to stop."""
    one = {"w": np.zeros(1, np.float32)}
    with ps.connect() as client, suppress(ps.StoppedError):
        client.register(one)
        while not client.should_stop:
            client.pull()
            client.push(one)
            client.tick()


if __name__ == "__main__":
    main()
