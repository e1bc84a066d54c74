"""Who earns more than 50,000: sparse logistic regression by FTRL on the servers, in NumPy, on the a9a data.

psctl run --workers 4 examples/adult.py --data FOLDER               # 85.2 % of the test part; 85.1 % alone
psctl run --workers 4 --consistency async examples/adult.py --data FOLDER
psctl run --workers 4 --consistency ssp:staleness=3 --compression onebit:min_elements=0 \\
    examples/adult.py --data FOLDER                                 # 85.2 %

The script asks the servers for FTRL, which holds weights of no use at exactly zero: 52 of 123 with uncompressed pushes.
A run can ask for another optimizer by --optimizer.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import ps

FEATURES, LOG_EVERY = 123, 20
Array = np.ndarray[Any, Any]


def load(path: Path) -> tuple[Array, Array]:
    """Rows of 0 and 1, and labels 0 or 1, from LIBSVM's text. Exits, saying why, when it cannot be read."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        x = np.zeros((len(lines), FEATURES), np.float32)
        for row, (_, *pairs) in enumerate(lines):
            x[row, [int(pair.split(":")[0]) - 1 for pair in pairs]] = 1
        return x, np.array([line[0] == "+1" for line in lines], np.float32)
    except (OSError, ValueError, IndexError) as error:
        sys.exit(f"adult: --data: expected a folder with a9a/a9a and a9a/a9a.t, got this: {error}")


def probability(p: dict[str, Array], x: Array) -> Array:
    score: Array = x @ p["weights"] + p["bias"]
    return 1 / (1 + np.exp(-score))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("PS_DATA"), help="folder with a9a [PS_DATA]")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64, help="examples per worker and step")
    given = parser.parse_args()
    if given.data is None:
        parser.error("--data: expected a folder with a9a, or PS_DATA")
    (x, y), test = (load(Path(given.data) / "a9a" / name) for name in ("a9a", "a9a.t"))
    with ps.connect() as client:
        chosen = "" if client.config.optimizer else "ftrl:lr=0.5,l1=0.3"
        initial = {"weights": np.zeros(FEATURES, np.float32), "bias": np.zeros(1, np.float32)}
        client.register(initial, optimizer=chosen)
        p = client.pull()
        for rows, labels in ps.data.shard((x, y), client, batch=given.batch, epochs=given.epochs):
            error = probability(p, rows) - labels
            grads = {"weights": rows.T @ error / len(rows), "bias": error.mean(keepdims=True)}
            p = client.push_pull(grads, weight=len(rows), out=p)
            if client.clock % LOG_EVERY == 0:
                client.log(mistakes=float((abs(error) > 0.5).mean()))
        client.barrier()
        p = client.pull()
        if client.rank == 0:
            accuracy = float(((probability(p, test[0]) > 0.5) == test[1]).mean())
            zeros = int((p["weights"] == 0).sum())
            client.log(test_acc=accuracy)
            print(f"a9a: test accuracy {100 * accuracy:.1f} %, {zeros} of {FEATURES} weights are zero")


if __name__ == "__main__":
    main()
