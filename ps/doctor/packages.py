"""The software of this machine: Python, the packages that a cluster needs, the arithmetic."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from importlib import metadata

import ps
from ps.doctor.finding import Finding, ok, problem, warning

PYTHON = (3, 11)
TRIED_ELEMENTS = 1 << 18  # of the step that is timed
LIBZMQ = "4.3"  # tells when a handshake has succeeded
# The oldest that will do; those of pyproject.toml, which a test compares.
OLDEST = {"numpy": "1.26", "pyzmq": "25", "grpcio": "1.60", "protobuf": "4.21", "msgpack": "1.0"}


def python() -> Iterator[Finding]:
    """The interpreter and this package."""
    found = f"{platform.python_version()} at {sys.executable}, ps {ps.__version__}"
    wanted = ".".join(map(str, PYTHON))
    if sys.version_info >= PYTHON:
        yield ok("Python", found)
    else:
        yield problem("Python", found, f"install Python {wanted} or newer")


def packages() -> Iterator[Finding]:
    """Each package in the version that is installed, and the libzmq that pyzmq brings."""
    for name, oldest in OLDEST.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield problem(name, "not installed", f"pip install '{name}>={oldest}'")
        else:
            yield package(name, version, oldest)
    import zmq

    yield package("libzmq", zmq.zmq_version(), LIBZMQ)


def package(name: str, version: str, oldest: str) -> Finding:
    """Whether this version is new enough."""
    if numbers(version) >= numbers(oldest):
        return ok(name, version)
    wheel = "pyzmq, built against a newer libzmq" if name == "libzmq" else f"'{name}>={oldest}'"
    return problem(name, f"{version}, expected {oldest} or newer", f"pip install --upgrade {wheel}")


def numbers(version: str) -> tuple[int, ...]:
    """`1.60.0rc1` -> (1, 60, 0): what comes before a letter."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def kernels() -> Iterator[Finding]:
    """Who computes on this machine, and how fast: native code or its NumPy twins."""
    import numpy as np  # late: it may be what is broken

    from ps.kernels import adam
    from ps.kernels.dispatch import IN_USE, TWIN

    w, grad, mean, mean_square = (np.ones(TRIED_ELEMENTS, np.float32) for _ in range(4))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        adam(w, grad, mean, mean_square, w, 0.1, 0.0, False, 0.9, 0.999, 1e-8, 0.1, 0.001)
        seconds.append(time.perf_counter() - began)
    speed = f"a step of Adam takes {1e9 * min(seconds) / TRIED_ELEMENTS:.2f} ns per parameter"
    yield computing(IN_USE, IN_USE == TWIN, os.environ.get("PS_KERNELS"), speed)


def computing(name: str, twin: bool, asked: str | None, speed: str) -> Finding:
    """asked: what PS_KERNELS says."""
    if not twin:
        return ok("kernels", f"native ({name}): {speed}")
    found = f"NumPy twins: same results, {speed}, native ones a fifth of that; codecs gain more"
    build = "install a C++20 compiler and Python's headers (g++ python3-dev), then this package once more"
    remedy = f"PS_KERNELS={asked} asks for them: unset it" if asked else build
    return warning("kernels", found, remedy)
