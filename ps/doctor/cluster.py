"""A cluster as this machine sees it: its controller, its release, its clock, its servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ps import __version__
from ps.addresses import is_loopback, split_address
from ps.doctor.finding import WAIT_S, Finding, ok, problem, warning
from ps.doctor.reach import Reach, Trouble, dial
from ps.errors import ConfigError, Error
from ps.key import Key, OtherKey

SKEW_S_MAX = 1.0
DIALS = 32  # at a time
SCHEME, SCHEME_HERE = "tcp://", "ipc://"

CONTROLLER_REMEDIES: dict[Trouble, str] = {
    "unknown": "check the spelling of the host, or give its IP address",
    "refused": "nobody listens there: has it been started, with this --port, and with a --host that others can reach?",
    "silent": "is the machine on, and in this network? else a firewall drops it: open the port",
}
SERVER_REMEDIES: dict[Trouble, str] = {
    "unknown": "advertise a host that is known here: psctl server --advertise",
    "refused": "nobody listens there: has it ended? else it must --listen where it says: psctl server --advertise",
    "silent": "a firewall, or another network: open the port (psctl server --listen HOST:PORT fixes it)",
}


def cluster(address: str, say: Callable[[str], None], key: Key | None = None) -> Iterator[Finding]:
    """From the controller to the servers; ends where nothing more can be found out."""
    say(f"the controller at {address}")
    reach = dial(*split_address("controller", address))
    if reach.trouble:
        yield problem("controller", str(reach), CONTROLLER_REMEDIES[reach.trouble])
        return
    yield ok("controller", str(reach))
    say(f"the status of {address}")
    from ps.control.commands import fetch_status

    asked = time.time()
    try:
        status = fetch_status(address, WAIT_S, key)
    except OtherKey as error:
        found, _, remedy = str(error).rpartition("; ")
        yield problem("status", found, remedy)
        return
    except ConfigError as error:  # it answers, but not as a controller does
        yield problem("status", str(error), "another program has this port: check the address")
        return
    except Error as error:
        yield problem("status", str(error), "it listens but does not answer: another program, or it hangs")
        return
    answered = time.time()
    yield release(status)
    yield skew(status, asked, answered)
    yield from servers(status, reach.here, address, say)


def release(status: Mapping[str, Any]) -> Finding:
    """Whether the controller speaks as we do."""
    from ps.wire import WIRE_VERSION

    theirs, wire = status.get("release"), status.get("wire_version")
    found = f"controller {theirs} with wire version {wire}, here {__version__} with {WIRE_VERSION}"
    remedy = "install the same release everywhere"
    if wire != WIRE_VERSION:
        return problem("release", found, remedy)
    return ok("release", found) if theirs == __version__ else warning("release", found, remedy)


def skew(status: Mapping[str, Any], asked: float, answered: float) -> Finding:
    """Between the controller's wall clock and ours, known to half of the time its answer took."""
    theirs = status.get("unix_time")
    if not isinstance(theirs, (int, float)):
        return warning("clock skew", "the controller does not tell its time", "install the same release everywhere")
    ahead_s, half_s = theirs - (asked + answered) / 2, (answered - asked) / 2
    side = "ahead of" if ahead_s > 0 else "behind"
    found = f"the controller is {abs(ahead_s):.3f} s {side} this machine, +-{half_s:.3f} s"
    if abs(ahead_s) - half_s <= SKEW_S_MAX:
        return ok("clock skew", found)
    remedy = "times in logs will not fit together: timedatectl set-ntp true on both"
    return warning("clock skew", f"{found}, expected at most {SKEW_S_MAX:g} s", remedy)


def servers(
    status: Mapping[str, Any], controller_is_here: bool, controller: str, say: Callable[[str], None]
) -> Iterator[Finding]:
    """Dials the data address of each that runs."""
    there = [one for one in status["servers"] if one["state"] in ("running", "lost")]
    for one in status["servers"]:
        if one["state"] == "expected":
            yield warning(
                f"server {one['shard']}", "not there yet", f"start it: psctl server --controller {controller}"
            )
    with ThreadPoolExecutor(DIALS) as pool:
        dialled = [pool.submit(_server, one, controller_is_here) for one in there]
        for one, found in zip(there, dialled, strict=True):
            say(f"server {one['shard']} at {one['address']}")
            yield found.result()


def _server(one: Mapping[str, Any], controller_is_here: bool) -> Finding:
    what = f"server {one['shard']}"
    if one["state"] == "lost":
        return problem(what, f"lost, was at {one['address']}", "its values are gone: look at its log, then run again")
    if one["address"].startswith(SCHEME_HERE):
        found = f"is at {one['address']}, for processes of its own machine only"
        remedy = "--servers colocated of psctl run is for one machine: look from there"
        return ok(what, found) if controller_is_here else problem(what, found, remedy)
    host, port = split_address(what, one["address"].removeprefix(SCHEME))
    if is_loopback(host) and not controller_is_here:
        found = f"is at {one['address']}, which on every other machine means that machine itself"
        return problem(what, found, "advertise another host: psctl server --advertise")
    return server_finding(what, dial(host, port))


def server_finding(what: str, reach: Reach) -> Finding:
    """What dialling it has shown."""
    return problem(what, str(reach), SERVER_REMEDIES[reach.trouble]) if reach.trouble else ok(what, str(reach))
