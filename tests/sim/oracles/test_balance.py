"""Batches in proportion to speed: unequal workers get nearly the sum of their rates, and end where equal ones do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

import ps
from ps.sim.links import LinkFaults
from ps.types import Array
from ps.worker.client import Client
from tests.sim.helpers import Run, simulate

EXAMPLES, EPOCHS, BATCH = 4000, 4, 8
COST_S = (16e-3, 16e-3, 8e-3, 4e-3)  # per example: rates 1 : 1 : 2 : 4
RATE = sum(1 / cost for cost in COST_S)
CURVE, PLACE = np.random.default_rng(5).random((2, EXAMPLES)).astype(np.float32)  # f_i(x) = a_i (x - b_i)^2 / 2
OPTIMUM = float((CURVE * PLACE).sum() / CURVE.sum())
CALM = LinkFaults()
LR = 0.05


@dataclass
class Descent:
    """An example takes as long as cost_s says of a rank and the number of its step."""

    balanced: bool
    cost_s: Callable[[int, int], float] = lambda rank, step: COST_S[rank]
    steps: dict[int, list[tuple[int, Array]]] = field(default_factory=dict)  # rank -> clock and examples, in order
    ends: list[float] = field(default_factory=list)

    def train(self, client: Client) -> Array:
        x = client.register({"x": np.zeros(1, np.float32)})
        steps = self.steps.setdefault(client.rank, [])
        for i in ps.data.leased(EXAMPLES, client, batch=BATCH, epochs=EPOCHS, balanced=self.balanced):
            x = client.pull()
            client.spend(self.cost_s(client.rank, len(steps)) * len(i))
            steps.append((client.clock, i))
            client.push({"x": np.mean(CURVE[i] * (x["x"] - PLACE[i]), keepdims=True)}, weight=len(i))
            client.tick()
        self.ends.append(client._worker.port.now())
        return client.pull()["x"]

    def sizes(self, rank: int) -> list[int]:
        """Of its batches, in order."""
        return [len(i) for _, i in self.steps[rank]]


def run(descent: Descent, consistency: str) -> Run:
    return simulate(
        descent.train, seed=3, workers=4, servers=1, consistency=consistency, optimizer=f"sgd:lr={LR}", faults=CALM,
        apply_s=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("consistency", ["bsp", "ssp:staleness=3"])
def test_unequal_workers_reach_nearly_the_sum_of_their_rates(consistency: str) -> None:
    balanced, plain = Descent(True), Descent(False)
    for descent in (balanced, plain):
        run(descent, consistency)
    rates = [EXAMPLES * EPOCHS / max(descent.ends) for descent in (balanced, plain)]
    assert rates[0] > 0.9 * RATE, f"{rates[0]:.0f} of {RATE:.0f} examples per second"
    assert rates[1] < 0.55 * RATE, "who waits for the slowest has no more than four times its rate, of eight"


def test_batches_are_in_proportion_and_their_mean_is_what_was_asked() -> None:
    descent = Descent(True)
    run(descent, "bsp")
    assert [int(np.median(descent.sizes(rank))) for rank in range(4)] == [4, 4, 8, 16]
    assert all(descent.sizes(rank)[:8] == [BATCH] * 8 for rank in range(4)), "before speeds are known, all alike"


def test_every_clock_is_the_mean_over_its_examples_whoever_computed_them() -> None:
    """Against one process that takes the same examples at once: the fixed point is that of equal speeds."""
    descent = Descent(True)
    x = run(descent, "bsp").final()["x"].item()
    together: dict[int, list[Array]] = {}
    for steps in descent.steps.values():
        for clock, i in steps:
            together.setdefault(clock, []).append(i)
    alone = 0.0
    for _, parts in sorted(together.items()):
        i = np.concatenate(parts)
        alone -= LR * float(np.mean(CURVE[i] * (alone - PLACE[i]), dtype=np.float64))
    everything = np.concatenate([i for steps in descent.steps.values() for _, i in steps])
    assert np.bincount(everything).tolist() == [EPOCHS] * EXAMPLES
    assert abs(x - alone) < 1e-5 and abs(x - OPTIMUM) < 0.02


def test_who_slows_down_gets_smaller_batches() -> None:
    descent = Descent(True, lambda rank, step: 16e-3 if rank == 0 and step >= 100 else 4e-3)
    run(descent, "bsp")
    sizes = descent.sizes(0)
    assert sizes[90] == BATCH and sizes[200] in (2, 3), "a quarter of the speed: 8 * 0.25 / mean(0.25, 1, 1, 1)"


# ---- under `local`: fewer steps instead of smaller batches ----------------------------------------------------------

H, LOCAL_LR, OUTER = 8, 0.1, 0.7


@dataclass
class Rounds:
    """Each worker notes the clock, the value and the step of all that it computes."""

    balanced: bool
    steps: dict[int, list[tuple[int, Array]]] = field(default_factory=dict)  # rank -> clock and examples
    ends: list[float] = field(default_factory=list)

    def train(self, client: Client) -> Array:
        client.register({"x": np.zeros(1, np.float32)})
        steps = self.steps.setdefault(client.rank, [])
        for i in ps.data.leased(
            EXAMPLES, client, batch=BATCH, epochs=EPOCHS, lease=2 * H * BATCH, balanced=self.balanced
        ):
            x = client.pull()
            client.spend(COST_S[client.rank] * len(i))
            steps.append((client.clock, i))
            client.push({"x": np.mean(CURVE[i] * (x["x"] - PLACE[i]), keepdims=True)}, weight=len(i))
            client.tick()
        self.ends.append(client._worker.port.now())
        values = client.pull()["x"]
        client.barrier()
        return values


def local(rounds: Rounds, consistency: str) -> Run:
    return simulate(
        rounds.train, seed=3, workers=4, servers=1, consistency=f"{consistency}:every={H},local_lr={LOCAL_LR}",
        optimizer=f"sgd:lr={OUTER}", faults=CALM, apply_s=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("consistency", ["local", "async_local"])
def test_slower_workers_take_fewer_steps_a_round_and_hold_nobody_up(consistency: str) -> None:
    balanced = Rounds(True)
    local(balanced, consistency)
    assert EXAMPLES * EPOCHS / max(balanced.ends) > 0.85 * RATE
    for rank, expected in enumerate((2, 2, 4, 8)):
        clocks = np.array([clock for clock, _ in balanced.steps[rank]])
        middle = clocks[len(clocks) // 2] // H
        taken = [int((clocks // H == number).sum()) for number in range(middle - 3, middle + 3)]
        assert sorted(taken)[3] == expected, f"rank {rank}: {taken}"


def test_a_round_is_the_mean_of_what_each_has_moved_in_its_own_steps() -> None:
    """Against one process that takes the same steps on the same examples, round after round."""
    rounds = Rounds(True)
    x = local(rounds, "local").final()["x"].item()
    outer, last = 0.0, max(clock // H for steps in rounds.steps.values() for clock, _ in steps)
    for number in range(last + 1):
        deltas, weights = [], []
        for steps in rounds.steps.values():
            mine = [i for clock, i in steps if clock // H == number]
            inner = outer
            for i in mine:
                inner -= LOCAL_LR * float(np.mean(CURVE[i] * (inner - PLACE[i])))
            if mine:
                deltas.append(outer - inner)
                weights.append(np.mean([len(i) for i in mine]))
        outer -= OUTER * float(np.average(deltas, weights=weights))
    assert abs(x - outer) < 1e-4
    assert len({len(steps) for steps in rounds.steps.values()}) > 1


def test_a_share_of_the_steps_can_be_taken_by_hand() -> None:
    """A round of 10: one worker steps 10 times, the other 3 times, and both are at the next round's begin."""
    lr, places = 0.1, (1.0, 3.0)
    counted = []

    def train(client: Client) -> Array:
        client.register({"x": np.zeros(1, np.float32)})
        if client.rank == 1:
            client.take_steps(0.35)
        while client.clock < 20:
            x = client.pull()["x"]
            client.push({"x": x - places[client.rank]})
            client.tick()
            counted.append(client.rank)
        return client.pull()["x"]

    run = simulate(
        train, seed=1, workers=2, servers=1, consistency=f"local:every=10,local_lr={lr}", optimizer="sgd:lr=1",
        faults=CALM,
    )  # fmt: skip
    x = 0.0
    for _ in range(2):
        ends = [place + (x - place) * (1 - lr) ** steps for place, steps in zip(places, (10, 3), strict=True)]
        x = sum(ends) / 2
    assert [counted.count(rank) for rank in (0, 1)] == [20, 6]
    assert run.results[0] == pytest.approx(x, rel=1e-5) and run.results[0] == run.results[1]


@pytest.mark.parametrize(
    ("consistency", "share", "why"),
    [
        ("bsp", 0.5, "take_steps: expected a model whose workers step, as local, got bsp"),
        ("local:every=10,local_lr=0.1", 0.0, "take_steps: share: expected above 0 and at most 1, got 0.0"),
        ("local:every=10,local_lr=0.1", 1.5, "take_steps: share: expected above 0 and at most 1, got 1.5"),
    ],
)
def test_a_share_that_cannot_be_is_refused(consistency: str, share: float, why: str) -> None:
    def train(client: Client) -> None:
        client.register({"x": np.zeros(1, np.float32)})
        with pytest.raises(ps.ConfigError, match=why):
            client.take_steps(share)

    simulate(train, seed=1, workers=1, servers=1, consistency=consistency, faults=CALM)
