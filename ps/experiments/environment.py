"""On what an experiment ran: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import ps
from ps.kernels import dispatch

_PACKAGES = ("numpy", "pyzmq", "torch", "jax", "pyarrow")
GIT_S = 5.0


def environment(folder: Path) -> dict[str, Any]:
    """Builtin types. folder: the experiment file's; its commit is told where it is under version control."""
    return {
        "ps": ps.__version__,
        "kernels": dispatch.IN_USE,
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "machine": platform.node(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "commit": git(folder, "rev-parse", "HEAD"),
        "changed": bool(git(folder, "status", "--porcelain")),
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Its model's name, where the kernel says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def git(folder: Path, *args: str) -> str:
    """What git says in this folder; nothing where there is no git, or no repository."""
    try:
        found = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=GIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
