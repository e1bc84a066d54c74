"""What `import ps` costs a fresh interpreter, beside the numpy that it cannot do without."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import FOLDER, Bench, checksum


def fresh(code: str) -> str:
    """Runs `code` in a new interpreter that imports from this checkout."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parent, check=True, capture_output=True, text=True
    ).stdout


def bench_numpy(bench: Bench) -> None:
    with bench.timed(events=1):
        fresh("import numpy")
    bench.check(checksum(b"numpy"))


def bench_ps(bench: Bench) -> None:
    loaded = fresh("import sys, ps; print(sorted(name for name in sys.modules if name.partition('.')[0] == 'ps'))")
    with bench.timed(events=1):
        fresh("import ps")
    bench.check(checksum(loaded.encode()))
