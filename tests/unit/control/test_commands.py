"""Status and stop from outside, as functions and as `psctl` commands."""

from __future__ import annotations

import json
import socket

import pytest

from ps.cli import main as cli
from ps.cli.status import report
from ps.control.commands import ask_stop, fetch_status
from ps.errors import ConfigError, DeadlineError
from ps.messages import Log, Progress, Stop
from ps.types import Clock, WorkerId
from tests.unit.control.peers import Cluster


def psctl(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(argv))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def dead_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_status_is_a_table_or_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster(servers=1, workers=2) as cluster:
        (server,), (worker,) = cluster.servers(), cluster.workers(1)
        worker.say(Log(WorkerId(0), 1, Clock(4), 0.0, ("loss",), (0.125,)))
        worker.say(Progress(WorkerId(0), 1, Clock(4)))
        cluster.until(lambda status: status["workers"][0]["clock"] == 4)
        code, out, err = psctl(capsys, "status", cluster.server.address)
        lines = out.splitlines()
        assert (code, err) == (0, "") and lines[0].split() == ["worker", "state", "clock", "silent", "for", "logged"]
        assert lines[1].split()[:3] == ["0", "running", "4"] and lines[1].endswith(" s       loss=0.125")
        assert lines[2].split() == ["1", "expected", "0", "-", "-"]
        assert lines[5].split() == ["0", "running", server.link.hello.data_address]
        assert lines[-1] == "job running; refused peers: 0; rejected messages: 0"
        monkeypatch.setenv("PS_CONTROLLER", cluster.server.address)
        code, out, _ = psctl(capsys, "status", "--json")
        assert code == 0 and json.loads(out)["workers"][0]["logged"] == {"loss": 0.125}


def test_stop_ends_the_job_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with Cluster(workers=1, hold=True) as cluster:
        cluster.servers()
        (worker,) = cluster.workers(1)
        assert psctl(capsys, "stop", cluster.server.address, "--reason", "good enough") == (0, "", "")
        assert worker.expect(Stop) == Stop("good enough", False)
        ask_stop(cluster.server.address, "another")
        code, out, _ = psctl(capsys, "status", "--watch", cluster.server.address)  # it ends with the job
        assert code == 0 and "job stopped: good enough;" in out


def test_a_failed_job_says_so() -> None:
    with Cluster(workers=1, hold=True) as cluster:
        cluster.servers()
        cluster.workers(1)
        cluster.server.stop("boom\ntraceback", failed=True)
        assert report(fetch_status(cluster.server.address)).splitlines()[-1].startswith("job failed: boom; ")


def test_nobody_there_is_one_line_with_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    address = dead_address()
    for command in ("status", "stop"):
        code, out, err = psctl(capsys, command, address)
        assert (code, out) == (1, "")
        assert err == f"psctl {command}: no controller answers at {address}; start it, or check the address\n"


def test_one_that_does_not_answer_is_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineError, match=f"no controller answers at {address}"):
            fetch_status(address, timeout_s=0.2)


def test_addresses_are_checked() -> None:
    for address in ("", "host", "host:", ":70", "host:0", "host:70000", "host:x"):
        with pytest.raises(ConfigError, match="expected host:port of a controller"):
            fetch_status(address)
