"""A process's place in a cluster: how its line to the controller ends, and what a forked child leaves alone."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ps import processes
from ps.control.hello import HELLO_S, Hello, LinkEnd
from ps.errors import ConfigError
from ps.processes import JOIN_S, ClusterPort
from ps.transport.cards import Host, Layout
from ps.types import PeerId
from ps.worker.client import Client
from tests.unit.control.peers import WAIT_S, Cluster


@pytest.mark.parametrize("failed", [False, True])
def test_a_goodbye_is_no_warning(caplog: pytest.LogCaptureFixture, failed: bool) -> None:
    with Cluster() as cluster:
        port = ClusterPort(PeerId("server"))
        port.join(cluster.server.address, Hello("server", data_address="tcp://127.0.0.1:1"), WAIT_S)
        cluster.server.stop("enough", failed)
        assert port.over.wait(WAIT_S) and port.end == LinkEnd("enough", failed, gone=False)
        port.close()
    assert caplog.records == []


def test_a_controller_that_is_gone_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    port = ClusterPort(PeerId("server"))
    with caplog.at_level(logging.WARNING, "ps"):
        port._end(LinkEnd("the controller at h:1 is gone", failed=True, gone=True))
    assert port.over.is_set()
    assert "the controller at h:1 is gone; training goes on without it, but nobody can join" in caplog.text
    port.transport.close()


def test_the_controllers_refusal_comes_before_our_own_deadline() -> None:
    assert JOIN_S > HELLO_S  # it names who is missing


def test_at_exit_a_forked_child_leaves_the_parents_client_alone() -> None:
    closed: list[str] = []

    class Recorder:
        def close(self, error: str) -> None:
            closed.append(error)

    client = cast(Client, Recorder())
    processes._leave(client, os.getpid() + 1)
    assert closed == []
    processes._leave(client, os.getpid())
    assert closed == [""]


def test_variables_that_are_no_numbers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PS_SHARD", "one")
    with pytest.raises(ConfigError, match="environment variable PS_SHARD: expected an integer, got 'one'"):
        processes.number("PS_SHARD", -1)
    monkeypatch.delenv("PS_SHARD")
    assert processes.number("PS_SHARD", -1) == -1


@pytest.mark.parametrize(("text", "seconds"), [(None, 2.0), ("0.5", 0.5), ("5.0", 2.0)])
def test_figures_are_no_older_than_a_report_of_them(
    monkeypatch: pytest.MonkeyPatch, text: str | None, seconds: float
) -> None:
    if text is not None:
        monkeypatch.setenv("PS_FIGURES_S", text)
    assert processes.figures_s(2.0) == seconds


def test_links_that_are_none_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "links.json").write_text("{}")
    Layout(hosts={"h2": Host()}, place={}).write(tmp_path / "other.json")
    for text in ("h1", f"h1:{tmp_path}/none.json", f"h1:{tmp_path}/links.json", f"h1:{tmp_path}/other.json"):
        monkeypatch.setenv("PS_LINKS", text)
        with pytest.raises(ConfigError, match=f"environment variable PS_LINKS: expected host:file, .* got '{text}' "):
            ClusterPort(PeerId("server"))


@pytest.mark.parametrize("text", ["0", "soon", "nan", "inf"])
def test_seconds_that_are_none_are_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PS_FIGURES_S", text)
    with pytest.raises(ConfigError, match=f"environment variable PS_FIGURES_S: expected seconds > 0, got '{text}'"):
        processes.figures_s(2.0)


def test_a_worker_tells_its_measures_as_often_as_figures_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    welcome = SimpleNamespace(job=b"", config=SimpleNamespace(timeout_s=1.0))
    worker = SimpleNamespace(reports=SimpleNamespace(measured_s=2.0))
    monkeypatch.setattr(processes, "ClusterPort", lambda *_: SimpleNamespace(join=lambda *_: welcome))
    monkeypatch.setattr(processes, "Worker", lambda *_: worker)
    monkeypatch.setattr(processes, "Client", lambda worker: SimpleNamespace(_worker=worker))
    monkeypatch.setattr("atexit.register", lambda *_: None)
    monkeypatch.setenv("PS_CONTROLLER", "127.0.0.1:1")
    monkeypatch.setenv("PS_FIGURES_S", "0.25")
    processes.join_worker()
    assert worker.reports.measured_s == 0.25
