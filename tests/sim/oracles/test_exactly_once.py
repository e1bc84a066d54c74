"""What every model must keep: each push counts once, order is free where sums are, nothing goes back, seeds repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pytest

from ps import keyspace
from ps.sim.loop import Simulator
from ps.transport.base import Message
from ps.types import CONTROLLER, Array, PeerId
from ps.worker.client import Client
from tests.sim.helpers import MODELS, ROUGH, record_key, simulate
from tests.sim.oracles.problem import BUNDLE, DOUBLE, SLICE_ELEMENTS, Problem, Values

OPTIMIZERS = ("sgd:lr=0.1", "momentum:lr=0.1,decay=0.8", "adam:lr=0.03", "dcasgd:lam=0.5+adagrad:lr=0.1")


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "SLICE_ELEMENTS_MAX", SLICE_ELEMENTS)


def trouble(problem: Problem, seed: int) -> Callable[[Client], list[Values]]:
    """The problem's script with random compute times."""

    def train(client: Client) -> list[Values]:
        rng = np.random.default_rng([seed, client.rank])
        return problem.run(client, spend=lambda clock: float(rng.exponential(0.01)))

    return train


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("seed", "model"), list(enumerate(MODELS)))
def test_under_rough_links_every_push_has_exactly_one_verdict(seed: int, model: str, optimizer: str) -> None:
    """Everything comes twice, a fifth is lost: the helper checks verdicts, followers and buffers, here the counts."""
    problem = Problem(seed, workers=3, clocks=6, repeated=True, sparse=True, groups=(BUNDLE, DOUBLE))
    run = simulate(
        trouble(problem, seed), seed=seed, servers=1 + seed % 2, consistency=model, optimizer=optimizer, faults=ROUGH
    )
    applied = Counter(
        (push.worker, push.seq, slice_id)
        for slice_id in range(run.slices)
        for commit in run.commits(slice_id)
        for push in commit.contributions
    )
    assert set(applied.values()) == {1}, run.say(f"applied: {applied.most_common(3)}")
    if model.partition(":")[0] in ("bsp", "ssp", "async"):
        pushed = Counter(
            (rank, slice_id)
            for rank in range(3)
            for clock in range(6)
            for push in problem.pushes(rank, clock)
            for slice_id, group in enumerate((BUNDLE, DOUBLE))
            if set(group) <= set(push.names)
        )
        arrived = Counter((worker, slice_id) for worker, _, slice_id in applied)
        assert arrived == pushed, run.say(f"pushed {pushed}, applied {arrived}")


@dataclass
class Tape:
    """Copies of all data messages to servers; plays them again."""

    sim: Simulator | None = None
    messages: list[tuple[PeerId, PeerId, bytes, list[Array]]] = field(default_factory=list)

    def bind(self, sim: Simulator) -> None:
        self.sim = sim
        send = sim.send

        def taped(sender: PeerId, to: PeerId, message: Message) -> None:
            if CONTROLLER not in (sender, to) and to.startswith("server:"):
                self.messages.append((sender, to, message.header, [buffer.copy() for buffer in message.buffers]))
            send(sender, to, message)

        sim.send = taped  # type: ignore[method-assign]

    def play(self, order: Random) -> None:
        """Every message once more, in any order, straight into its server."""
        assert self.sim is not None
        for sender, to, header, buffers in order.sample(self.messages, len(self.messages)):
            server = self.sim.servers[int(to[7:])]
            server.receive(sender, Message(header, [buffer.copy() for buffer in buffers]), self.sim.now)


@pytest.mark.parametrize("optimizer", ["adam:lr=0.03", "dcasgd:lam=0.5+sgd:lr=0.1"])
@pytest.mark.parametrize(("seed", "model"), list(enumerate(MODELS)))
def test_replaying_all_messages_changes_nothing(seed: int, model: str, optimizer: str) -> None:
    """Neither values, state, versions, clocks nor verdicts; at the end and with everybody gone."""
    problem = Problem(seed, workers=3, clocks=4, groups=(BUNDLE, DOUBLE))
    tape = Tape()
    run = simulate(trouble(problem, seed), seed=seed, consistency=model, optimizer=optimizer, plan=tape.bind)
    values = [server.values.contents() for server in run.servers]
    numbers = [server.shard.ledger.state() for server in run.servers]
    records = [len(log) for log in run.log]
    tape.play(Random(seed))
    assert [server.values.contents() for server in run.servers] == values, run.say("values changed by a replay")
    assert [server.shard.ledger.state() for server in run.servers] == numbers, run.say("numbers changed by a replay")
    if "dcasgd" not in optimizer:  # an answer to a late copy of a pull is remembered, which changes no values
        assert [len(log) for log in run.log] == records, run.say("records written by a replay")
    assert not any(server._frames for server in run.servers), run.say("frames kept of a replay")


@pytest.mark.parametrize("optimizer", ["add", "sgd:lr=0.5"])
@pytest.mark.parametrize("model", ["async", "ssp:staleness=1", "bsp"])
def test_the_order_of_additive_updates_does_not_matter(model: str, optimizer: str) -> None:
    """Integers over 32 and rates that are powers of two: sums are exact, so all schedules end in the same bytes."""

    def train(client: Client) -> None:
        client.register({"w": np.ones((6, 7), np.float32), "big": np.ones(5000, np.float32)})
        rng = np.random.default_rng(client.rank)
        for _ in range(6):
            shapes = {"w": (6, 7), "big": (5000,)}
            client.pull()
            client.push({n: (rng.integers(-64, 64, s) / 32).astype(np.float32) for n, s in shapes.items()})
            client.tick()
        client.barrier()

    ends: dict[bytes, list[int]] = {}
    orders: set[tuple[Any, ...]] = set()
    for seed in range(6):
        run = simulate(train, seed=seed, workers=4, consistency=model, optimizer=optimizer, faults=ROUGH)
        ends.setdefault(b"".join(value.tobytes() for value in run.final().values()), []).append(seed)
        orders.add(tuple((c.slice, p.worker, p.seq) for c in run.all_commits for p in c.contributions))
    assert len(ends) == 1, f"{model}, {optimizer}: seeds that end alike: {list(ends.values())}"
    assert model == "bsp" or len(orders) > 1, f"{model}: seeds 0 to 5 gave one order only"


@pytest.mark.parametrize(("seed", "model"), list(enumerate(MODELS)))
def test_versions_and_clocks_in_replies_never_go_back(seed: int, model: str) -> None:
    problem = Problem(seed, workers=4, clocks=8, groups=(BUNDLE, DOUBLE))

    def train(client: Client) -> int:
        rng = np.random.default_rng([seed, client.rank])
        client.register(problem.initial())
        session = client._worker.session
        version_S, min_clock_S, backward = session.base_S.copy(), session.min_clock_S.copy(), 0
        for clock in range(8):
            values = client.pull()
            backward += int((session.base_S < version_S).sum() + (session.min_clock_S < min_clock_S).sum())
            if not model.startswith("quorum"):  # rounds of others may be ahead of the clock of one who was late
                backward += int((session.min_clock_S > clock).sum())
            version_S, min_clock_S = session.base_S.copy(), session.min_clock_S.copy()
            client.spend(float(rng.exponential(0.02)))
            for call, push in enumerate(problem.pushes(client.rank, clock)):
                client.push(problem.gradients(client.rank, clock, call, push, values), weight=push.weight)
            client.tick()
        return backward

    run = simulate(train, seed=seed, workers=4, consistency=model, faults=ROUGH)
    assert run.results == [0] * 4, run.say(f"steps back, by worker: {run.results}")


@pytest.mark.parametrize("optimizer", ["momentum:lr=0.1,decay=0.8", "dcasgd:lam=0.5+sgd:lr=0.1"])
@pytest.mark.parametrize(("seed", "model"), list(enumerate(MODELS)))
def test_the_same_seed_gives_the_same_log_and_bytes(seed: int, model: str, optimizer: str) -> None:
    def once(run_seed: int) -> tuple[Any, ...]:
        problem = Problem(seed, workers=3, clocks=5, repeated=True, sparse=True)
        run = simulate(trouble(problem, seed), seed=run_seed, consistency=model, optimizer=optimizer)
        log = [[record_key(record) for record in records] for records in run.log]
        reads = [[{n: v.tobytes() for n, v in pulled.items()} for pulled in read] for read in run.results]
        return run.sim.now, log, reads, [server.values.contents() for server in run.servers]

    first, again = once(seed), once(seed)
    for what, a, b in zip(("end", "log", "reads", "contents"), first, again, strict=True):
        assert a == b, f"seed {seed}, {model}, {optimizer}: {what} differ in a second run"
    assert first[0] != once(seed + 1000)[0], f"seed {seed}: another seed gave the same schedule"
