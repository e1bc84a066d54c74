"""A peer's side: dialling, sending from any thread, the end."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ps import wire
from ps.config import RunConfig
from ps.control import link as links
from ps.control.hello import Hello, LinkEnd
from ps.control.link import ControlLink
from ps.control.service import ControlServer
from ps.errors import ConfigError, DeadlineError, OutboxFull, StoppedError
from ps.messages import Done, Progress
from ps.transport.base import Unreachable
from ps.types import Clock, WorkerId
from tests.unit.control.peers import WAIT_S, Cluster, Peer

CHECKOUT = Path(__file__).resolve().parents[3]
JOB = bytes(16)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_it_dials_until_the_controller_listens() -> None:
    port = free_port()
    hello = Hello("server", data_address="tcp://127.0.0.1:1")
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(Peer, f"127.0.0.1:{port}", JOB, hello)
        while not any(thread.name == "ps control" for thread in threading.enumerate()):
            assert not early.done()
        server = ControlServer(RunConfig(), port=port, job=JOB)
        server.start()
        peer = early.result(WAIT_S)
    assert peer.link.welcome.config == RunConfig() and peer.link.welcome.job == JOB
    peer.link.close()
    server.close()


def test_nobody_at_the_address_is_a_deadline_that_names_it() -> None:
    port = free_port()
    with pytest.raises(DeadlineError, match=rf"no controller answers at 127\.0\.0\.1:{port} in 0\.3 s"):
        Peer(f"127.0.0.1:{port}", JOB, Hello("worker"), timeout_s=0.3)


def test_a_controller_that_waits_for_servers_longer_than_we_do_is_a_deadline() -> None:
    with Cluster() as cluster, pytest.raises(DeadlineError, match=f"{cluster.server.address} has taken no worker in"):
        Peer(cluster.server.address, JOB, Hello("worker"), timeout_s=0.3)


def test_a_job_that_is_over_is_stopped() -> None:
    with Cluster() as cluster:
        cluster.server.stop("enough")
        assert cluster.server.wait(WAIT_S)
        with pytest.raises(StoppedError, match="enough"):
            cluster.join("worker")


def test_what_was_sent_before_close_arrives_in_order() -> None:
    with Cluster() as cluster:
        cluster.servers()
        (worker,) = cluster.workers(1)
        for clock in range(1, 2001):
            worker.say(Progress(WorkerId(0), 1, Clock(clock)))
        worker.say(Done(WorkerId(0), 1, ""))
        worker.link.close()
        worker.link.close()
        assert cluster.server.wait(0) or cluster.server.outcome == ("all workers are done", False)
        (status,) = cluster.server.status()["workers"]
        assert (status["clock"], status["state"]) == (2000, "done")
        assert worker.ends.empty()  # who closes is told nothing


def test_after_the_end_it_is_unreachable() -> None:
    with Cluster() as cluster:
        (server,) = cluster.servers()
        cluster.server.stop("enough")
        assert server.end() == ("enough", False)
        with pytest.raises(Unreachable, match="enough"):
            server.link.send(b"x")
        with pytest.raises(Unreachable, match="enough"):
            server.link.metrics("{}")


def test_a_controller_that_dies_is_gone() -> None:
    script = """
import sys
from ps.config import RunConfig
from ps.control.service import ControlServer
server = ControlServer(RunConfig(), job=bytes(16))
print(server.start(), flush=True)
sys.stdin.read()
"""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": CHECKOUT, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        peer = Peer(address, JOB, Hello("server", data_address="tcp://127.0.0.1:1"))
        process.kill()
        end = peer.ends.get(timeout=WAIT_S)
    assert end.failed and end.gone and f"the controller at {address} is gone" in end.reason
    with pytest.raises(Unreachable, match="is gone"):
        peer.say(Progress(WorkerId(0), 1, Clock(1)))
    peer.link.close()


def test_in_another_process_it_raises_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with Cluster() as cluster:
        (server,) = cluster.servers()
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -7)
            uses = (partial(server.link.send, b"x"), partial(server.link.metrics, "{}"), server.link.close)
            for use in uses:
                with pytest.raises(ConfigError, match=r"got process -7; a connection does not survive a fork: start"):
                    use()
            with pytest.raises(ConfigError, match="does not survive a fork"):
                cluster.join("reader")
        server.link.send(b"x")


def test_forked_children_end_and_the_link_lives_on() -> None:
    script = """
import multiprocessing, queue
from ps.config import RunConfig
from ps.control.hello import Hello, LinkEnd
from ps.control.link import ControlLink
from ps.control.service import ControlServer
from ps.errors import ConfigError

def use(link):
    try:
        link.send(b"x")
    except ConfigError:
        raise SystemExit(7)

ends = queue.Queue()
with_fork = multiprocessing.get_context("fork")
server = ControlServer(RunConfig())
link = ControlLink(server.start(), Hello("server", data_address="tcp://h:1"), print, ends.put)
for _ in range(10):
    child = with_fork.Process(target=use, args=(link,))
    child.start()
    child.join(20)
    assert child.exitcode == 7, child.exitcode
server.stop("enough")
assert ends.get(timeout=20) == LinkEnd("enough", False, False)
link.close()
server.close()
"""
    fork_warns = ["-W", "ignore::DeprecationWarning"]  # Python 3.12 and later: the process has threads
    done = subprocess.run([sys.executable, *fork_warns, "-c", script], cwd=CHECKOUT, capture_output=True, timeout=90)
    assert done.returncode == 0, done.stderr.decode()


def test_send_does_not_wait_for_a_stream_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "HEADER_BYTES_MAX", 1000)
    stuck, free = threading.Event(), threading.Event()

    def hold(_: bytes) -> None:
        stuck.set()
        free.wait(WAIT_S)

    with Cluster() as cluster:
        cluster.servers()
        (worker,) = cluster.workers(1)
        monkeypatch.setattr(worker.link, "_on_message", hold)
        worker.link.send(wire.encode(worker.job, Done(WorkerId(0), 7, "")))  # another incarnation: it is answered
        assert stuck.wait(WAIT_S)
        worker.link.send(bytes(5000))  # one of any size is taken
        with pytest.raises(OutboxFull, match=cluster.server.address):
            worker.link.send(b"x")
        free.set()


def test_an_owner_that_fails_is_told_as_an_end() -> None:
    ends: queue.Queue[LinkEnd] = queue.Queue()

    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    with Cluster() as cluster:
        cluster.servers()
        link = ControlLink(cluster.server.address, Hello("worker"), fail, ends.put)
        link.send(wire.encode(cluster.server.job, Progress(WorkerId(0), 1, Clock(1))))
        end = ends.get(timeout=WAIT_S)
        assert end.failed and end.gone and "ZeroDivisionError" in end.reason
        link.close()
