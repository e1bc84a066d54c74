"""What this machine has: its name among others, memory, limits of the container. Linux; elsewhere nothing is known."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_name() -> str:
    """Processes that share memory have the same: the host's name, its kernel's since it was started, and the control
    group where that has a limit of its own."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.is_file() else ""
    group = "" if limit_of("memory.max") is None else f"/{CGROUP.stat().st_ino}"
    return f"{socket.gethostname()}/{boot}{group}"


def available_bytes() -> int:
    """Memory that processes here may still take, at least 1; 0: not known."""
    try:
        free = meminfo()["MemAvailable"]
    except (OSError, KeyError):
        return 0
    return max(min(free, group_free(CGROUP)), 1)


def group_free(group: Path) -> int:
    """Bytes that are left of a control group's limit; file pages that the kernel would give up count as free."""
    limit, used = limit_of("memory.max", group), limit_of("memory.current", group)
    if limit is None or used is None:
        return sys.maxsize
    path = group / "memory.stat"
    rows = dict(line.split() for line in path.read_text().splitlines()) if path.is_file() else {}
    return int(limit - used) + sum(int(rows.get(name, 0)) for name in ("active_file", "inactive_file"))


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
    """`1.5 GiB`, `20 MiB`."""
    return f"{nbytes / (1 << 30):.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / (1 << 20):.0f} MiB"
