"""Who dials a server proves that it has the key; on this machine's own places the kernel tells which user dials."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ps.key import Key, make_key, read_key
from ps.testing.peers import SERVER, WORKER, Releases, receive, send, send_until_unreachable
from ps.transport.base import Message
from ps.transport.zmq import ZmqTransport

JOB = bytes(16)
DEADLINE_S = 30.0
NOBODY = 65534

# The first byte that it is sent, in hex; nothing when it is hung up on.
DIALS = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as way:
    way.settimeout(20)
    way.connect("\\0" + sys.argv[1])
    try:
        print(way.recv(1).hex())
    except ConnectionResetError:
        print()
"""


@pytest.fixture
def keys(tmp_path: Path) -> list[Key]:
    """Two."""
    paths = [str(tmp_path / name) for name in ("one", "two")]
    for path in paths:
        make_key(path)
    return [read_key(path) for path in paths]


@pytest.mark.parametrize(("server", "worker"), [(0, 1), (0, None), (None, 0)])
def test_who_has_another_key_or_none_is_not_heard(keys: list[Key], server: int | None, worker: int | None) -> None:
    """The error says that it may be the key."""
    theirs, ours = (None if number is None else keys[number] for number in (server, worker))
    with closing(ZmqTransport(SERVER, JOB, key=theirs)) as there:
        place = {SERVER: there.listen("tcp://127.0.0.1:0")}
        releases = Releases()
        with closing(ZmqTransport(WORKER, JOB, place.get, key=ours)) as here:
            send_until_unreachable(here, releases)
            with pytest.raises(Exception, match="same key" if ours else "expected a peer at"):
                here.send_nowait(SERVER, Message(b"again"))
        releases.wait_for_one_each()
        assert there.recv(0.0) is None


def test_who_is_refused_is_in_nobodys_way(keys: list[Key]) -> None:
    with closing(ZmqTransport(SERVER, JOB, key=keys[0])) as there:
        place = {SERVER: there.listen("tcp://127.0.0.1:0")}
        with (
            closing(ZmqTransport(WORKER, JOB, place.get, key=keys[1])) as stranger,
            closing(ZmqTransport(WORKER, JOB, place.get, key=keys[0])) as ours,
        ):
            stranger.send_nowait(SERVER, Message(b"stranger"))
            send(ours, SERVER, Message(b"ours"))
            sender, message = receive(there)
            assert (sender, message.header) == (WORKER, b"ours")


def test_a_place_of_this_machine_is_for_one_user() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can dial as somebody else")
    with closing(ZmqTransport(SERVER, JOB)) as there:
        place = there.listen(f"ipc://@ps-test-{os.getpid()}").removeprefix("ipc://@")
        said = []
        for user in (0, NOBODY):
            dial = [sys.executable, "-I", "-S", "-c", DIALS, place, str(user)]
            said.append(subprocess.run(dial, capture_output=True, text=True, timeout=DEADLINE_S))
    assert [(one.stdout, one.stderr) for one in said] == [("ff\n", ""), ("\n", "")]
