"""Hosts with links of a chosen speed on this machine: the command `netlab` makes them of network namespaces.

The cell's hosts are h1, h2, ...; one more, after the last, is the controller's, whose link is not limited.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock, Timer

from ps.errors import ConfigError
from ps.experiments.cells import Cell
from ps.launch.options import Place

COMMAND = "netlab"
ADDRESS = "10.77.0.{number}"
FREE_MBIT = 10_000  # of a link without a rate
COMMAND_S = 60.0
_CUTS: Counter[str] = Counter()  # in force, by host
_LOCK = Lock()  # held from the count of cuts to the end of the command that goes with it: timers mend in threads


def missing() -> str | None:
    """Why there can be no hosts here; None: there can."""
    if shutil.which(COMMAND) is None:
        return f"expected the command {COMMAND}, which makes hosts of network namespaces, got none on PATH"
    if os.geteuid() != 0:
        return f"expected root, as {COMMAND} needs, got user {os.geteuid()}"
    return None


def name_of(sweep: Path, slot: int) -> str:
    """The network of a sweep's cells, one at a time in each slot: a cell finds what the last one may have left."""
    return f"ps{hashlib.sha256(str(sweep.resolve()).encode()).hexdigest()[:8]}s{slot}"


def inside(cell: Cell, network: str, command: Sequence[str]) -> int:
    """Makes the hosts, runs the command on the controller's, removes them again; the command's exit code.

    network: its name. Raises: ConfigError when hosts cannot be made.
    """
    hosts = sorted(set(cell.hosts.values()), key=_number)
    os.environ["NETLAB"] = network
    _down()  # what a cell that was killed has left
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        delay = ["--rtt", f"{2 * cell.links.delay_ms:g}"] if cell.links.delay_ms else []
        _netlab("up", str(len(hosts) + 1), "--rate", str(FREE_MBIT), *delay)
        for host in hosts:
            link = cell.links.of(host)
            if link.rate_mbit is not None:
                _netlab("limit", host, f"{link.rate_mbit:g}")
        return subprocess.call([COMMAND, "run", f"h{len(hosts) + 1}", "--", *command])
    finally:
        _down()


def place_of(cell: Cell) -> Callable[[str], Place]:
    """Where each process is started, by its name: "worker 0", "server 1", "controller"."""
    hosts = cell.hosts

    def place(name: str) -> Place:
        if name == "controller":
            return Place((), ADDRESS.format(number=len(set(hosts.values())) + 1))
        host = hosts[name.replace(" ", ":")]
        return Place((COMMAND, "run", host, "--"), ADDRESS.format(number=_number(host)))

    return place


def cut(host: str, seconds: float) -> None:
    """Nothing comes from or gets to the host for so long: all peers on it, and their control connections."""
    with _LOCK:
        _netlab("cut", host)
        _CUTS[host] += 1
    mend = Timer(seconds, _mend, (host,))
    mend.daemon = True  # the network goes with the run
    mend.start()


def _mend(host: str) -> None:
    """Once the last of the cuts that it is under is over."""
    with _LOCK:
        _CUTS[host] -= 1
        if not _CUTS[host]:
            _netlab("mend", host)


def _down() -> None:
    _said("down")  # nothing to remove is fine


def _number(host: str) -> int:
    return int(host.removeprefix("h"))


def _netlab(*args: str) -> None:
    done = _said(*args)
    if done.returncode != 0:
        raise ConfigError(f"{COMMAND} {' '.join(args)}: {done.stderr.strip() or f'exit code {done.returncode}'}")


def _said(*args: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([COMMAND, *args], capture_output=True, text=True, timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{COMMAND} {' '.join(args)}: expected an end within {COMMAND_S:g} s, got none") from None
