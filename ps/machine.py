"""What this machine has: its name among others, memory, limits of the container. Linux; elsewhere nothing is known."""

from __future__ import annotations

import socket
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_name() -> str:
    """Processes that share memory have the same: the host's name and that of its kernel since it was started."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.is_file() else ""
    return f"{socket.gethostname()}/{boot}"


def available_bytes() -> int:
    """Memory that processes here may still take; 0: not known."""
    try:
        free = meminfo()["MemAvailable"]
    except (OSError, KeyError):
        return 0
    limit, used = limit_of("memory.max"), limit_of("memory.current")
    return free if limit is None or used is None else max(min(free, int(limit - used)), 0)


def meminfo() -> dict[str, int]:
    """Bytes, by the kernel's names: MemTotal, MemAvailable, ..."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) << 10 for row in rows}


def limit_of(what: str, root: Path = CGROUP) -> float | None:
    """A number of this container's: a limit, or quota over period; None: there is none."""
    path = root / what
    if not path.is_file():
        return None
    quota, *period = path.read_text().split()
    if quota == "max":
        return None
    return int(quota) / int(period[0]) if period else float(quota)


def in_words(nbytes: float) -> str:
    """`1.5 GiB`."""
    return f"{nbytes / (1 << 30):.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / (1 << 20):.0f} MiB"
