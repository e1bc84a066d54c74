"""Frames come back as they went, and no bytes do harm."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.config import RunConfig
from ps.control import control_pb2 as pb
from ps.control.frames import (
    Body,
    FromController,
    MetricsJson,
    ToController,
    from_controller,
    read_from_controller,
    read_to_controller,
    to_controller,
)
from ps.control.hello import Goodbye, Hello, Refusal, Welcome
from ps.errors import FrameError

WELCOME = Welcome(bytes(16), RunConfig(servers=2, lease_s=float("inf")), 1, {0: "tcp://a:1", 1: "tcp://b:2"})


@pytest.mark.parametrize(
    "frame",
    [
        Hello("worker", rank=-1),
        Hello("server", b"j" * 16, -1, "tcp://h:1", 1, 9, "n", "host", 7, ("none", "topk"), "1.0", 3),
        Body(b""),
        Body(b"\x00\xff"),
        MetricsJson("{}"),
    ],
)
def test_a_peers_frame_comes_back(frame: ToController) -> None:
    assert read_to_controller(to_controller(frame)) == frame


@pytest.mark.parametrize(
    "frame", [WELCOME, Body(b"x"), Refusal("job", "a", "b", "c"), Goodbye("über", True), Goodbye("", False)]
)
def test_the_controllers_frame_comes_back(frame: FromController) -> None:
    assert read_from_controller(from_controller(frame)) == frame


@given(st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_a_frame_error(raw: bytes) -> None:
    for read in (read_to_controller, read_from_controller):
        with suppress(FrameError):
            read(raw)


def test_a_hello_of_a_release_without_shards_wants_any() -> None:
    old = pb.ToController.FromString(to_controller(Hello("server", data_address="tcp://h:1")))
    old.hello.ClearField("shard")
    read = read_to_controller(old.SerializeToString())
    assert isinstance(read, Hello) and read.shard == -1


def test_a_hello_without_a_role_is_none() -> None:
    with pytest.raises(FrameError, match="role: expected one of worker, server, reader, got 0"):
        read_to_controller(b"\x0a\x00")


def test_a_welcome_of_another_release_is_none() -> None:
    raw = from_controller(WELCOME).replace(b'"servers"', b'"serverz"')
    with pytest.raises(FrameError, match=r"Welcome\.config: expected a RunConfig of this release, got .*serverz"):
        read_from_controller(raw)
