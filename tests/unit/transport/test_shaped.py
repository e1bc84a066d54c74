"""Turns on cards of a declared rate, on a clock of the test's own."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from ps.errors import OutboxFull
from ps.transport import shaped
from ps.transport.base import Message, Unreachable
from ps.transport.cards import Cards, Host, Layout, table_of
from ps.transport.memory import MemoryNetwork
from ps.transport.packing import sent_bytes
from ps.transport.shaped import TURN_S, Lane, ShapedTransport, Turns
from ps.types import PeerId

RATE = 1e6  # bytes per second
KB = 1000


class Hosts:
    """Hosts h0, h1, ... with a peer each ("h0"), all in this process. `there`: (seconds, sender, to, message)."""

    def __init__(self, folder: Path, rates: list[float | None], delay_s: float = 0.0) -> None:
        hosts = {f"h{i}": Host(rate=rate, delay_s=delay_s) for i, rate in enumerate(rates)}
        Layout(hosts=hosts, place={name: name for name in hosts}).write(folder / "links.json")
        self.cards = {host: Cards(folder / "links.json") for host in hosts}
        self.turns = {host: Turns(seen, host) for host, seen in self.cards.items()}
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.there: list[tuple[float, str, str, Message]] = []

    def send(self, sender: str, to: str, nbytes: int, now: float = 0.0) -> Message:
        """A message of so many bytes as it travels."""
        message = Message(bytes(nbytes - sent_bytes(Message(b""))))
        message.header = message.header[: len(message.header) - (sent_bytes(message) - nbytes)]
        assert sent_bytes(message) == nbytes
        lane = self.lanes.setdefault((sender, to), self.turns[sender].lane(PeerId(to), to))
        self.turns[sender].put(lane, message, now)
        return message

    def run(self, seen: Callable[[float], float] = lambda time: time) -> None:
        """To the end. seen: when a sender looks that should at the given time."""
        while True:
            host = min(self.turns, key=lambda name: self.turns[name].next)
            due = self.turns[host].next
            if due == float("inf"):
                return
            now = seen(due)
            self.there += [(now, host, str(to), message) for to, message in self.turns[host].take(now)]

    def last(self, to: str) -> float:
        return max(time for time, _, at, _ in self.there if at == to)


class MakeHosts(Protocol):
    def __call__(self, rates: list[float | None], delay_s: float = 0.0) -> Hosts: ...


@pytest.fixture
def made(tmp_path: Path) -> Iterator[MakeHosts]:
    with ExitStack() as closing:

        def make(rates: list[float | None], delay_s: float = 0.0) -> Hosts:
            hosts = Hosts(tmp_path, rates, delay_s)
            for cards in hosts.cards.values():
                closing.callback(cards.close)
            return hosts

        yield make


@pytest.mark.parametrize("senders", [1, 2, 5])
def test_all_that_comes_to_a_host_takes_its_bytes_over_its_rate(made: MakeHosts, senders: int) -> None:
    hosts = made([RATE, *[10 * RATE] * senders])
    for number in range(8):
        for sender in range(1, senders + 1):
            hosts.send(f"h{sender}", "h0", (number + 1) * 10 * KB)
    hosts.run()
    assert len(hosts.there) == 8 * senders
    assert hosts.last("h0") == pytest.approx(senders * 360 * KB / RATE, rel=1e-12)


def test_all_that_leaves_a_host_takes_its_bytes_over_its_rate(made: MakeHosts) -> None:
    hosts = made([RATE, None, None, None])
    for to in ("h1", "h2", "h3"):
        hosts.send("h0", to, 100 * KB)
    hosts.run()
    assert max(map(hosts.last, ("h1", "h2", "h3"))) == pytest.approx(0.3, rel=1e-12)
    assert min(map(hosts.last, ("h1", "h2", "h3"))) > 0.3 - 3 * TURN_S, "equal parts, so all end together"


def test_a_delay_counts_once_and_messages_overlap_in_it(made: MakeHosts) -> None:
    hosts = made([RATE, RATE], delay_s=0.25)
    for _ in range(4):
        hosts.send("h0", "h1", 100 * KB)
    hosts.run()
    assert [time for time, *_ in hosts.there] == pytest.approx([0.6, 0.7, 0.8, 0.9], rel=1e-12)


def test_the_directions_of_a_card_are_independent(made: MakeHosts) -> None:
    hosts = made([RATE, RATE])
    hosts.send("h0", "h1", 500 * KB)
    hosts.send("h1", "h0", 500 * KB)
    hosts.run()
    assert [time for time, *_ in hosts.there] == pytest.approx([0.5, 0.5], rel=1e-12)


def test_pairs_of_hosts_do_not_disturb_each_other(made: MakeHosts) -> None:
    hosts = made([RATE] * 4)
    hosts.send("h0", "h1", 500 * KB)
    hosts.send("h2", "h3", 300 * KB)
    hosts.run()
    assert (hosts.last("h1"), hosts.last("h3")) == pytest.approx((0.5, 0.3), rel=1e-12)


def test_a_lane_keeps_its_order_whatever_the_sizes(made: MakeHosts) -> None:
    hosts = made([RATE, RATE, RATE], delay_s=0.01)
    sent = [hosts.send("h0", "h1", nbytes) for nbytes in (90 * KB, 100, 20 * KB, 50, 4000)]
    hosts.send("h2", "h1", 60 * KB)
    hosts.run()
    assert [message for _, sender, _, message in hosts.there if sender == "h0"] == sent


def test_a_small_message_waits_for_a_turn_of_the_others_not_for_their_messages(made: MakeHosts) -> None:
    hosts = made([RATE, RATE, RATE])
    hosts.send("h0", "h1", 900 * KB)
    small = hosts.send("h2", "h1", 100)
    hosts.run()
    (time,) = [time for time, _, _, message in hosts.there if message is small]
    assert time <= TURN_S + 100 / RATE
    assert hosts.last("h1") == pytest.approx(0.9001, rel=1e-12)


def test_bytes_that_wait_at_the_sender_leave_the_receiver_to_others(made: MakeHosts) -> None:
    """What h0 sends to h1 can only come at h0's rate; what h2 sends there meanwhile has the rest of h1's card."""
    hosts = made([RATE, 100 * RATE, 100 * RATE])
    hosts.send("h0", "h1", 500 * KB)
    other = hosts.send("h2", "h1", 500 * KB)
    hosts.run()
    (time,) = [time for time, _, _, message in hosts.there if message is other]
    assert time == pytest.approx(500 * KB / (100 * RATE), rel=0.02)


def test_who_looks_late_loses_nothing_and_never_goes_faster_than_the_card(made: MakeHosts) -> None:
    hosts = made([RATE, RATE])
    for _ in range(10):
        hosts.send("h0", "h1", 30 * KB)
    hosts.run(seen=lambda due: due + 0.02)  # four turns late, each time
    assert 0.3 <= hosts.last("h1") <= 0.3 + 0.02
    for number, (time, *_) in enumerate(hosts.there, start=1):
        assert time >= number * 30 * KB / RATE


def test_an_idle_card_saves_nothing_up(made: MakeHosts) -> None:
    hosts = made([RATE, RATE])
    hosts.send("h0", "h1", 10 * KB)
    hosts.run()
    hosts.send("h0", "h1", 10 * KB, now=5.0)
    hosts.send("h0", "h1", 10 * KB, now=5.0)
    hosts.run()
    assert [time for time, *_ in hosts.there] == pytest.approx([0.01, 5.01, 5.02], rel=1e-12)


def test_without_a_rate_only_the_delay_passes(made: MakeHosts) -> None:
    hosts = made([None, None], delay_s=0.5)
    hosts.send("h0", "h1", 500 * KB, now=2.0)
    hosts.run()
    assert hosts.last("h1") == 3.0


def test_what_has_not_arrived_is_released_when_it_is_dropped(made: MakeHosts) -> None:
    hosts = made([RATE, RATE], delay_s=1.0)
    released: list[int] = []
    for number in range(4):
        hosts.send("h0", "h1", 10 * KB).on_release = lambda number=number: released.append(number)
    hosts.turns["h0"].take(0.015)  # the first is through and in its delay, the second under way
    hosts.turns["h0"].drop()
    assert sorted(released) == [0, 1, 2, 3]


def test_nobody_else_looks_at_the_table_while_cards_are_taken(
    made: MakeHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = made([RATE, RATE]).cards["h0"]
    refused: list[bool] = []

    def rate(host: str) -> float:
        with table_of(tmp_path / "links.json").open("rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(True)
            else:
                refused.append(False)
        return RATE

    monkeypatch.setattr(cards, "_rate", rate)
    cards.reserve("h0", "h1", KB, 0.0)
    assert refused == [True, True]
    cards.rate("h0", "h1")
    assert refused[2:] == [False, False], "the lock is let go of"


# The transport around another; `slow` carries nothing while a test lasts.


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ShapedTransport, MemoryNetwork]]:
    monkeypatch.setattr(shaped, "FLUSH_S", 0.0)
    place = {"worker:0": "h1", "server:0": "h2", "server:1": "h1"}
    Layout(hosts=dict.fromkeys(("h1", "h2"), Host(rate=1e-3)), place=place).write(tmp_path / "links.json")
    network = MemoryNetwork()
    transport = ShapedTransport(network.open(PeerId("worker:0")), Cards(tmp_path / "links.json"), "h1", 1 << 20)
    yield transport, network
    transport.close()


@pytest.mark.parametrize("near", ["server:1", "reader:aa"])
def test_what_stays_on_a_host_and_who_is_on_none_is_reached_at_once(
    slow: tuple[ShapedTransport, MemoryNetwork], near: str
) -> None:
    transport, network = slow
    peer = network.open(PeerId(near))
    transport.send_nowait(PeerId(near), message := Message(b"x", [np.zeros(1 << 20, np.uint8)]))
    assert peer.recv(0.0) == ("worker:0", message)


def test_so_many_messages_are_held_and_no_more(slow: tuple[ShapedTransport, MemoryNetwork]) -> None:
    transport, network = slow
    network.open(PeerId("server:0"))
    for _ in range(shaped.UNSENT_MAX):
        transport.send_nowait(PeerId("server:0"), Message(b"x"))
    with pytest.raises(OutboxFull, match="server:0: expected at most 1000 messages"):
        transport.send_nowait(PeerId("server:0"), Message(b"x"))


def test_so_many_bytes_are_held_but_one_message_of_any_size(slow: tuple[ShapedTransport, MemoryNetwork]) -> None:
    transport, network = slow
    network.open(PeerId("server:0"))
    released: list[str] = []
    large = Message(b"x", [np.zeros(3 << 20, np.uint8)], lambda: released.append("large"))
    transport.send_nowait(PeerId("server:0"), large)
    with pytest.raises(OutboxFull):
        transport.send_nowait(PeerId("server:0"), Message(b"x"))
    assert released == []
    transport.close()
    assert released == ["large"]
    with pytest.raises(Unreachable, match="worker:0: expected to be open when it sends, got closed"):
        transport.send_nowait(PeerId("server:0"), Message(b"x"))


def test_what_breaks_the_transport_is_told_to_every_sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(to: PeerId, message: Message) -> None:
        raise OSError(24, "too many open files")

    place = {"worker:0": "h1", "server:0": "h2"}
    Layout(hosts=dict.fromkeys(("h1", "h2"), Host()), place=place).write(tmp_path / "links.json")
    inner = MemoryNetwork().open(PeerId("worker:0"))
    monkeypatch.setattr(inner, "send_nowait", breaks)
    transport = ShapedTransport(inner, Cards(tmp_path / "links.json"), "h1", 1 << 20)
    transport.send_nowait(PeerId("server:0"), Message(b"x"))
    assert transport._thread is not None
    transport._thread.join(10.0)
    for _ in range(2):
        with pytest.raises(OSError, match="too many open files"):
            transport.send_nowait(PeerId("server:0"), Message(b"x"))
    transport.close()
