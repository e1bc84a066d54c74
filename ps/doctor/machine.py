"""The machine: limits, memory, cores, clock. Each rule is a function of what was read, the checks below read it."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from ps.doctor.finding import Finding, ok, warning
from ps.machine import in_words, limit_of, meminfo

FILES_MIN = 4096  # open files: each peer takes a few
SHM_BYTES_MIN = 1 << 30
MEMORY_BYTES_MIN = 1 << 30
CORES_MIN = 2  # one computes, one communicates
LONG_AGO = 1_735_689_600.0  # 2025-01-01: no clock that was ever set can say less
SHM = Path("/dev/shm")


def files_limit(soft: int, hard: int) -> Finding:
    """Of open files; -1: without limit."""
    if soft == resource.RLIM_INFINITY or soft >= FILES_MIN:
        return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"limit {soft}")
    most = FILES_MIN if hard == resource.RLIM_INFINITY else min(FILES_MIN, hard)
    raised = "" if most == FILES_MIN else f", which the hard limit {hard} does not allow: raise it in limits.conf"
    found = f"limit {soft}, expected {FILES_MIN} or more for clusters of hundreds of peers"
    return warning("open files", found, f"ulimit -n {FILES_MIN}{raised}")


def shared_memory(nbytes: int | None) -> Finding:
    """The size of /dev/shm; None: there is none."""
    remedy = "data loaders pass batches through it: docker run --shm-size=1g, or mount -o remount,size=1G /dev/shm"
    if nbytes is None:
        return warning("/dev/shm", "none", remedy)
    found = in_words(nbytes)
    if nbytes >= SHM_BYTES_MIN:
        return ok("/dev/shm", found)
    return warning("/dev/shm", f"{found}, expected {in_words(SHM_BYTES_MIN)} or more", remedy)


def memory(total: int, available: int, limit: float | None) -> Finding:
    """Bytes; limit: of the container, if it has one."""
    found = f"{in_words(available)} of {in_words(total)} available"
    found += "" if limit is None else f", this container may use {in_words(limit)}"
    if min(available, total if limit is None else limit) >= MEMORY_BYTES_MIN:
        return ok("memory", found)
    return warning("memory", found, "a server holds its values and optimizer state: end other programs, or use less")


def cores(usable: int, quota: float | None) -> Finding:
    """usable: cores that this process may run on; quota: how many of them the container may fill."""
    found = f"{usable} usable" + ("" if quota is None else f", of which this container may fill {quota:g}")
    if min(usable, usable if quota is None else quota) >= CORES_MIN:
        return ok("cores", found)
    return warning("cores", found, "training and communication share one: give it more (taskset, docker --cpus)")


def clock(now: float, since_boot_s: float) -> Finding:
    """The wall clock, in seconds since 1970, must allow the machine to have been on for so long."""
    found = f"{utc(now)}, on since {utc(now - since_boot_s)}"
    if now - since_boot_s >= LONG_AGO:
        return ok("clock", found)
    return warning("clock", f"{found}, which cannot be", "set it: timedatectl set-ntp true")


def malloc(tunable: bool, libc: str) -> Finding:
    """Whether freed buffers can be kept mapped."""
    if tunable:
        return ok("malloc", f"{libc}, keeps freed buffers mapped")
    return warning("malloc", f"{libc}, has no mallopt: large messages take about twice as long", "use a glibc system")


def limits() -> Iterator[Finding]:
    """Files, shared memory, memory, cores and malloc of this machine."""
    yield files_limit(*resource.getrlimit(resource.RLIMIT_NOFILE))
    shm = os.statvfs(SHM) if SHM.is_dir() else None
    yield shared_memory(None if shm is None else shm.f_blocks * shm.f_frsize)
    held = meminfo()
    yield memory(held["MemTotal"], held["MemAvailable"], limit_of("memory.max"))
    yield cores(len(os.sched_getaffinity(0)), limit_of("cpu.max"))
    yield malloc(hasattr(ctypes.CDLL(None), "mallopt"), " ".join(platform.libc_ver()).strip() or "unknown libc")


def clocks() -> Iterator[Finding]:
    """The wall clock of this machine."""
    yield clock(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


def utc(seconds: float) -> str:
    """`2026-11-21 07:25 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
