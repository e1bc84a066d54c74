"""A cluster as the doctor sees it: who can be dialled, at which address, and what to do when not."""

from __future__ import annotations

import errno
import re
import socket
from threading import Event
from typing import Any

import pytest

import ps
from ps.doctor import cluster as doctor
from ps.doctor import reach
from ps.doctor.finding import Finding
from ps.doctor.reach import Reach, Trouble, dial
from ps.wire import WIRE_VERSION
from tests.unit.control.peers import Cluster


def silent(text: str) -> None:
    """Says nothing."""


def findings(address: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in doctor.cluster(address, silent)}


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_healthy_cluster() -> None:
    with Cluster(servers=2, workers=1) as cluster, socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
        cluster.join("server", data_address=f"tcp://127.0.0.1:{port}")
        found = findings(cluster.server.address)
        assert list(found) == ["controller", "release", "clock skew", "server 1", "server 0"]
        address = re.escape(cluster.server.address)
        assert re.fullmatch(rf"tried {address}: reached after \d+\.\d ms", found["controller"].found)
        assert found["release"].level == found["clock skew"].level == "ok"
        assert re.fullmatch(rf"tried 127.0.0.1:{port}: reached after \d+\.\d ms", found["server 0"].found)
        late = found["server 1"]
        assert (late.level, late.found) == ("warning", "not there yet")
        assert late.remedy == f"start it: psctl server --controller {cluster.server.address}"


def test_nobody_at_the_controllers_address() -> None:
    port = dead_port()
    (finding,) = doctor.cluster(f"127.0.0.1:{port}", silent)
    assert finding.level == "problem"
    assert re.search(rf"tried 127.0.0.1:{port}: Connection refused after .*started.*--host", str(finding))


def test_something_that_is_no_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WAIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        found = findings(f"127.0.0.1:{mute.getsockname()[1]}")
    assert found["controller"].level == "ok" and found["status"].level == "problem"
    assert "no controller answers at" in found["status"].found and "another program" in found["status"].remedy


@pytest.mark.parametrize(
    ("theirs", "level"),
    [({}, "warning"), ({"unix_time": 100.0}, "ok"), ({"unix_time": 103.0}, "warning"), ({"unix_time": 97}, "warning")],
)
def test_clock_skew(theirs: dict[str, Any], level: str) -> None:
    assert doctor.skew(theirs, asked=99.9, answered=100.1).level == level


def test_skew_is_known_to_half_the_way() -> None:
    assert doctor.skew({"unix_time": 102.0}, asked=98.0, answered=102.0).level == "ok"
    found = doctor.skew({"unix_time": 110.0}, asked=99.0, answered=101.0).found
    assert found == "the controller is 10.000 s ahead of this machine, +-1.000 s, expected at most 1 s"


@pytest.mark.parametrize(
    ("theirs", "level"),
    [
        ({"release": ps.__version__, "wire_version": WIRE_VERSION}, "ok"),
        ({"release": "9.9", "wire_version": WIRE_VERSION}, "warning"),
        ({"release": "9.9", "wire_version": WIRE_VERSION + 1}, "problem"),
        ({}, "problem"),
    ],
)
def test_release(theirs: dict[str, Any], level: str) -> None:
    assert doctor.release(theirs).level == level


def one_server(address: str, state: str = "running") -> dict[str, Any]:
    return {"servers": [{"shard": 3, "address": address, "state": state}]}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_loopback_address_on_another_host_is_not_dialled(host: str) -> None:
    (finding,) = doctor.servers(one_server(f"tcp://{host}:4000"), False, "far:7070", silent)
    assert (finding.level, finding.remedy) == ("problem", "advertise another host: psctl server --advertise")
    assert f"tcp://{host}:4000" in finding.found


def test_servers_that_are_gone() -> None:
    port = dead_port()
    (finding,) = doctor.servers(one_server(f"tcp://127.0.0.1:{port}"), True, "127.0.0.1:7070", silent)
    assert finding.level == "problem" and f"tried 127.0.0.1:{port}: Connection refused" in finding.found
    (finding,) = doctor.servers(one_server("tcp://h:1", "lost"), True, "127.0.0.1:7070", silent)
    assert finding.level == "problem" and finding.found == "lost, was at tcp://h:1"
    assert list(doctor.servers(one_server("tcp://h:1", "done"), True, "127.0.0.1:7070", silent)) == []


def test_dialling_knows_whose_address_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        got = dial("127.0.0.1", place.getsockname()[1])
        assert got.here and not got.trouble and got.tried == (f"127.0.0.1:{place.getsockname()[1]}",)


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
        two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kind: two)
        got = dial("twice", port)
    assert (got.trouble, got.tried) == ("", (f"127.0.0.9:{port}", f"127.0.0.1:{port}"))


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    never = Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kind: never.wait(20))
    got = dial("slow.example", 1, wait_s=0.05)
    never.set()
    assert (got.trouble, got.why, got.tried) == ("silent", "no answer", ())


@pytest.mark.parametrize(
    ("error", "trouble", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "unknown", "Name or service not known"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "refused", "Connection refused"),
        (TimeoutError("timed out"), "silent", "no answer"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "silent", "No route to host"),
    ],
)
def test_troubles_have_remedies(error: OSError, trouble: Trouble, words: str) -> None:
    assert (reach.trouble_of(error), reach.words_of(error)) == (trouble, words)
    finding = doctor.server_finding("server 0", Reach(("h:1",), 0.25, trouble, words))
    assert str(finding).startswith(f"problem  server 0: tried h:1: {words} after 250.0 ms; ")
    assert doctor.CONTROLLER_REMEDIES[trouble]
