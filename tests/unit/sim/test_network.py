"""Cards share their rate, connections keep their order, processors do one thing after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ps.errors import ConfigError
from ps.sim.network import Card, Host, Lane, Network, Processor, Wires
from ps.sim.timeline import Timeline
from ps.types import CONTROLLER, PeerId

W0, W1, W2, S0, S1 = (PeerId(name) for name in ("worker:0", "worker:1", "worker:2", "server:0", "server:1"))


class Run(Timeline):
    """Notes when things are over."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, float] = {}

    def note(self, name: str) -> Callable[[], None]:
        return lambda: self.times.__setitem__(name, self.now)

    def end(self) -> dict[str, float]:
        while not self.is_empty:
            self.step()
        return self.times


def carried(network: Network, *messages: tuple[float, PeerId, PeerId, int]) -> list[float]:
    """When each message (time, sender, receiver, bytes) arrives."""
    run = Run()
    wires = Wires(network, run)
    for number, (time, sender, to, nbytes) in enumerate(messages):
        run.at(time, lambda n=number, s=sender, t=to, b=nbytes: wires.carry(s, t, b, run.note(str(n))))  # type: ignore[misc]
    times = run.end()
    return [times[str(number)] for number in range(len(messages))]


def shared(rate: float, jobs: list[tuple[float, int, float]], step: float) -> list[float]:
    """Oracle: finish of each (time, connection, bytes), by small steps of time in which the busy ones share alike."""
    left, finish, now = [nbytes for _, _, nbytes in jobs], [0.0] * len(jobs), 0.0
    while any(one > 0 for one in left):
        head: dict[int, int] = {}
        for place, (time, connection, _) in enumerate(jobs):
            if time <= now and left[place] > 0:
                head.setdefault(connection, place)
        for place in head.values():
            left[place] -= rate * step / len(head)
            finish[place] = now + step
        now += step
    return finish


def test_one_message_takes_its_bytes_over_the_lower_rate_and_the_delays() -> None:
    network = Network(worker=Host(rate=100.0, delay_s=0.25), server=Host(rate=1000.0, delay_s=0.5), frame_bytes=50)
    assert carried(network, (1.0, W0, S0, 450)) == pytest.approx([1 + 5 + 0.75])
    assert carried(network, (0.0, S0, W0, 450)) == pytest.approx([5 + 0.75])


def test_senders_share_a_receivers_card_and_both_directions_are_free_of_each_other() -> None:
    network = Network(worker=Host(rate=100.0), server=Host(rate=100.0))
    three = [(0.0, worker, S0, 100) for worker in (W0, W1, W2)]
    assert carried(network, *three, (0.0, S0, W0, 100)) == pytest.approx([3, 3, 3, 1])


def test_a_connection_keeps_its_order_and_has_one_share_however_many_messages_it_has() -> None:
    network = Network(worker=Host(rate=100.0))
    times = carried(network, (0.0, W0, S0, 100), (0.0, W0, S0, 10), (0.0, W0, S1, 100))
    assert times == pytest.approx([2.0, 2.1, 2.0])  # the last ten bytes have the card alone


def test_a_short_message_overtakes_a_long_one_of_another_connection() -> None:
    times = carried(Network(worker=Host(rate=100.0)), (0.0, W0, S0, 1000), (1.0, W0, S1, 10))
    assert times == pytest.approx([10.1, 1.2])


def test_peers_of_one_host_share_its_card_and_talk_over_loopback() -> None:
    place = {"worker:0": "a", "server:0": "a", "worker:1": "a"}
    network = Network(hosts={"a": Host(rate=100.0, delay_s=1.0, loopback=1000.0)}, place=place)
    times = carried(network, (0.0, W0, S0, 500), (0.0, W0, S1, 100), (0.0, W1, S1, 100))
    assert times == pytest.approx([0.5, 3.0, 3.0])
    free = Network(hosts={"a": Host(rate=100.0, delay_s=1.0)}, place=place)
    assert carried(free, (0.0, W0, S0, 500)) == [0.0]


def test_the_controller_and_readers_take_no_bytes() -> None:
    network = Network(worker=Host(rate=1.0, delay_s=0.5), server=Host(rate=1.0, delay_s=0.25))
    reader = PeerId("reader:1")
    assert carried(network, (0.0, W0, CONTROLLER, 999), (0.0, S0, reader, 999)) == [0.5, 0.25]


@pytest.mark.parametrize("seed", range(5))
def test_a_card_shares_as_an_oracle_in_small_steps_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    jobs = sorted(
        (float(random.uniform(0, 3)), int(random.integers(4)), float(random.uniform(1, 50))) for _ in range(12)
    )
    run = Run()
    card, lanes = Card(100.0, run), [Lane() for _ in range(4)]
    for number, (time, connection, nbytes) in enumerate(jobs):
        run.at(time, lambda n=number, c=connection, b=nbytes: card.add(lanes[c], b, run.note(str(n))))  # type: ignore[misc]
    times = run.end()
    assert [times[str(n)] for n in range(len(jobs))] == pytest.approx(shared(100.0, jobs, 1e-4), abs=2e-3)


def test_a_processor_does_one_thing_after_the_other_and_first_what_goes_on_from_the_last() -> None:
    run = Run()
    processor = Processor(run)

    def take() -> None:
        run.note("taken")()
        processor.do_first(2.0, run.note("applied"))

    run.at(1.0, lambda: processor.do(0.5, take))
    run.at(1.1, lambda: processor.do(1.0, run.note("next")))
    run.at(9.0, lambda: processor.do(0.0, run.note("free")))
    assert run.end() == pytest.approx({"taken": 1.5, "applied": 3.5, "next": 4.5, "free": 9.0})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Host(rate=0.0), "host: rate: expected bytes per second > 0, got 0.0"),
        (lambda: Host(delay_s=-1.0), "host: delay_s: expected a finite number >= 0, got -1.0"),
        (lambda: Network(apply_s_per_byte=-1e-9), "network: apply_s_per_byte: expected a finite number >= 0"),
        (lambda: Network(frame_bytes=-1), "network: frame_bytes: expected a finite number >= 0"),
        (lambda: Network(place={"worker:0": "a"}), r"worker:0: expected one of its hosts \(none\), got 'a'"),
        (lambda: Network(place={"reader:0": "a"}), "expected peers as worker:0 or server:0, got 'reader:0'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
