"""What every test gets: the real data sets, one hypothesis profile, and no thread that outlives its file.

A hang is ended by pytest's own faulthandler (see pyproject.toml), which prints the stack of every thread.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before numpy is imported, and inherited by child processes: two test workers on two cores want one BLAS thread each,
# and a matrix product is repeatable only for a fixed number of threads.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

settings.register_profile("default-ps", deadline=None, derandomize=True)
settings.register_profile(  # new examples in each run; a failure prints the line that repeats it
    "soak", deadline=None, max_examples=2000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("soak" if os.environ.get("PS_SOAK") == "1" else "default-ps")

CHECKOUT = Path(__file__).resolve().parent.parent
THREAD_GRACE_S = 2.0  # a thread may still be on its way out when its file's last test returns


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets: $PS_DATA, else ../shared/data beside the checkout."""
    named = os.environ.get("PS_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        if named:  # a typo must not turn tests off
            pytest.fail(f"PS_DATA: expected a folder of data sets, got {named!r}, which is none")
        pytest.skip(f"no data sets: {folder} is no folder; set PS_DATA to the folder that holds mnist/, a9a/, ...")
    return folder


@pytest.fixture(scope="module", autouse=True)
def no_thread_outlives_its_file() -> Iterator[None]:
    """Fails the file whose tests or fixtures leave a thread behind, daemon or not, and shows where it is.

    Per file and not per test: a cluster that several tests share may start threads in any of them.
    """
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREAD_GRACE_S
    left = [thread for thread in threading.enumerate() if thread not in before]
    left = [thread for thread in left if type(thread).__name__ != "GarbageCollectorThread"]  # pyzmq's, one per process
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread for thread in left if thread.is_alive()]
    if left:
        frames = sys._current_frames()
        stacks = [
            f"{thread!r}\n" + "".join(traceback.format_stack(frames[thread.ident]))
            for thread in left
            if thread.ident in frames
        ]
        names = ", ".join(thread.name for thread in left)
        pytest.fail(f"threads left running by this file's tests: {names}\n" + "\n".join(stacks), pytrace=False)
