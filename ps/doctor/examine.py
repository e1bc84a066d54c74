"""All checks, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ps.doctor.cluster import cluster
from ps.doctor.finding import Check, Finding, look
from ps.doctor.key import key_in_use
from ps.doctor.loopback import control_plane, data_plane, port_free
from ps.doctor.machine import clocks, limits
from ps.doctor.packages import kernels, packages, python

MACHINE: dict[str, Check] = {
    "Python": python,
    "packages": packages,
    "kernels": kernels,
    "limits": limits,
    "clock": clocks,
    "data plane": data_plane,
    "control plane": control_plane,
}


def examine(controller: str | None, port: int, key_file: str | None, say: Callable[[str], None]) -> Iterator[Finding]:
    """This machine, and the cluster of the controller at "host:port" if one is given.

    port: where a controller listens that is not told otherwise. key_file: of the cluster. say: what is being looked at.
    """
    for what, check in MACHINE.items():
        say(what)
        yield from look(what, check)
    if controller is None:
        yield port_free(port)
    yield from look("key", lambda: _keyed(controller, key_file, say))


def _keyed(controller: str | None, key_file: str | None, say: Callable[[str], None]) -> Iterator[Finding]:
    """The key, and the cluster unless that key is none."""
    key, found = key_in_use(key_file)
    yield found
    if controller is not None and found.level == "ok":
        yield from look("cluster", lambda: cluster(controller, say, key))
