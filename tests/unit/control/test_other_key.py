"""With a key only its holders reach the controller; who has another one is told so, by every door."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ps.control import other_key
from ps.control.agents import AgentLink, submit
from ps.control.commands import ask_stop, fetch_status
from ps.control.hello import Hello
from ps.control.link import ControlLink
from ps.control.other_key import check_key
from ps.errors import DeadlineError
from ps.key import Key, OtherKey, make_key, read_key
from tests.unit.control.peers import WAIT_S, Cluster, done

WORDS = {
    (0, 1): "expected one with the key of .*/two, got one with another key",
    (0, None): "expected one without a key, got one with a key",
    (None, 0): "expected one with the key of .*/one, got one without a key, or another program",
}
DOORS: dict[str, Callable[[str, Key | None], Any]] = {
    "status": lambda address, key: fetch_status(address, WAIT_S, key),
    "stop": lambda address, key: ask_stop(address, "enough", key=key),
    "submit": lambda address, key: next(submit(address, "train.py", [], key)),
    "agent": lambda address, key: AgentLink(address, b"", "/", WAIT_S, key),
    "join": lambda address, key: ControlLink(address, Hello("worker"), print, print, WAIT_S, key),
}


@pytest.fixture
def keys(tmp_path: Path) -> dict[int | None, Key | None]:
    """Two, and none."""
    made: dict[int | None, Key | None] = {None: None}
    for number, name in enumerate(("one", "two")):
        make_key(path := str(tmp_path / name))
        made[number] = read_key(path)
    return made


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("controller", "peer"), WORDS)
def test_another_key_is_said(
    keys: dict[int | None, Key | None], door: str, controller: int | None, peer: int | None
) -> None:
    expected = f"{WORDS[controller, peer]}; give the same --key FILE"
    with Cluster(key=keys[controller]) as cluster, pytest.raises(OtherKey, match=expected):
        DOORS[door](cluster.server.address, keys[peer])
    assert cluster.server.outcome == ("the controller was closed", True), "nobody has stopped it"


def test_a_job_with_a_key_is_a_job(keys: dict[int | None, Key | None]) -> None:
    with Cluster(key=keys[0]) as cluster:
        cluster.servers()
        (worker,) = cluster.workers(1)
        assert fetch_status(cluster.server.address, WAIT_S, keys[0])["workers"][0]["state"] == "running"
        done(worker, 0)
        assert worker.end() == ("all workers are done", False)


def test_nobody_there_is_no_other_key(keys: dict[int | None, Key | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_key, "LOOK_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        check_key(address, keys[0])
        with pytest.raises(DeadlineError, match=f"no controller answers at {address}"):
            fetch_status(address, 0.2, keys[0])
    check_key(address, keys[0])
    check_key(address, None)


def test_who_hangs_up_may_be_a_proxy_whose_controller_is_yet_to_come(keys: dict[int | None, Key | None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, ThreadPoolExecutor(1) as pool:
        looked = pool.submit(check_key, f"127.0.0.1:{proxy.getsockname()[1]}", keys[0])
        way, _ = proxy.accept()
        with way:
            way.recv(1 << 16)  # unread bytes would make it a reset
        assert looked.result(WAIT_S) is None


def test_a_name_that_no_host_can_have_is_nobody() -> None:
    check_key("a..b:7070", None)
    check_key(f"{'x' * 70}:7070", None)
