"""The software of this machine: Python, the packages that a cluster needs, the arithmetic."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata

import ps
from ps.doctor.finding import Finding, ok, problem

PYTHON = (3, 11)
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
    """The arithmetic of commits: all peers of a cluster must have the same."""
    from ps.control.hello import numerics_id

    name = numerics_id()
    kind = "NumPy twin" if name.startswith("numpy-twin") else "native"
    yield ok("kernels", f"{kind} ({name}); a controller admits only peers with the same")
