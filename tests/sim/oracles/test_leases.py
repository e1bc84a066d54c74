"""Leased data in virtual time: who is faster takes more, what a dead worker left is computed, every example counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

import ps
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.types import Array, worker_peer
from ps.worker.client import Client
from tests.sim.helpers import MODELS, ROUGH, Run, restart, simulate

EXAMPLES, EPOCHS, BATCH = 50, 3, 4
CALM = LinkFaults()
STEP_S = 0.01
SEEDS = 15
TWICE = 9 * BATCH  # examples in hand, or with pushes under way, when a worker dies


@dataclass
class Counting:
    """Each example adds one to an entry of its own, under `add`, so the servers' values count examples."""

    pace: Callable[[int], float] = lambda rank: STEP_S  # seconds for a step of this rank
    spans: dict[int, int] = field(default_factory=dict)  # rank -> examples through its loop
    last: dict[int, list[float]] = field(default_factory=dict)  # rank -> when its steps began

    def train(self, client: Client) -> Array:
        client.register({"count": np.zeros(EXAMPLES, np.float32), "small": np.zeros(1, np.float32)})
        for indices in ps.data.leased(EXAMPLES, client, batch=BATCH, epochs=EPOCHS, lease=3 * BATCH):
            self.last.setdefault(client.rank, []).append(client._worker.port.now())
            client.pull()
            client.spend(self.pace(client.rank))
            grad = np.zeros(EXAMPLES, np.float32)
            grad[indices] = 1 / len(indices)
            client.push({"count": grad, "small": np.zeros(1, np.float32)}, weight=len(indices))
            client.tick()
            self.spans[client.rank] = self.spans.get(client.rank, 0) + len(indices)
        values = client.pull()["count"]
        client.barrier()  # nobody waits here for the clock of one who still waits for data
        return values

    def at_step(self, rank: int, step: int, do: Callable[[], None]) -> None:
        """In the middle of this rank's step, counted over restarts."""
        pace = self.pace

        def paced(asked: int) -> float:
            if asked == rank and len(self.last[rank]) == step:
                do()
            return pace(asked)

        self.pace = paced


def everything_is_done(run: Run) -> bool:
    data = run.sim.controller.core.leases.sets["data"]
    return data.is_over and data.examples * data.epochs == EXAMPLES * EPOCHS


@pytest.mark.parametrize("length", [0.05, 0.3])
@pytest.mark.parametrize("at", np.arange(0.0, 0.3, 0.02))
def test_an_outage_at_the_end_leaves_nobody_a_clock_ahead(at: float, length: float) -> None:
    """Worker 1 has no batch at all, and its links are cut for a while; worker 0 hears messages after its last tick."""
    ends = {}

    def train(client: Client) -> None:
        client.register({"w": np.zeros(4, np.float32)})
        for indices in ps.data.leased(5, client, batch=5, epochs=1, lease=5):
            client.pull()
            client.spend(0.2)
            client.push({"w": np.ones(4, np.float32)}, weight=len(indices))
            client.tick()
            client.spend(0.2)
            assert not client.should_stop
        ends[client.rank] = client.clock
        client.barrier()
        client.pull()
        client.barrier()

    def plan(sim: Simulator) -> None:
        sim.at(at, lambda: sim.links.cuts.add(worker_peer(1)))
        sim.at(at + length, lambda: sim.links.cuts.discard(worker_peer(1)))

    simulate(train, seed=1, workers=2, servers=1, consistency="bsp", faults=CALM, resend_s=1.0, plan=plan)
    assert ends[0] == ends[1]


ADDS = [model for model in MODELS if "local" not in model and "quorum" not in model]


def check_counts(run: Run, deaths: int = 0) -> None:
    """Each example is in the values once per epoch; who dies leaves some for a second time, about two leases."""
    count = np.rint(run.final()["count"])
    assert count.min() >= EPOCHS, run.say(f"left out: {count}")
    assert count.sum() <= EXAMPLES * EPOCHS + deaths * TWICE, run.say(f"{count.sum()}: {count}")
    assert everything_is_done(run), run.say("not over")


@pytest.mark.parametrize("model", ADDS)
@pytest.mark.parametrize("seed", range(3))
def test_every_example_counts_once_per_epoch(seed: int, model: str) -> None:
    counting = Counting()
    run = simulate(counting.train, seed=seed, consistency=model, optimizer="add")
    check_counts(run)
    assert sum(counting.spans.values()) == EXAMPLES * EPOCHS


@pytest.mark.parametrize("model", ["async", "ssp:staleness=3", "downpour:push_every=2,pull_every=2,local_lr=0.1"])
def test_who_is_faster_takes_more(model: str) -> None:
    counting = Counting(lambda rank: STEP_S * (1 + 3 * (rank == 1)))
    run = simulate(counting.train, seed=1, workers=2, consistency=model, optimizer="add", faults=CALM, apply_s=0)
    check_counts(run)
    if model != "ssp:staleness=3":  # there a lead is bounded
        assert counting.spans[0] > 2.5 * counting.spans[1], run.say(f"{counting.spans}")


@pytest.mark.parametrize("model", ADDS)
@pytest.mark.parametrize("notice", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_killed_worker_held_is_computed_by_the_others(seed: int, notice: bool, model: str) -> None:
    """At any place of the run, its end among them: who has no more is still there."""
    counting, dead = Counting(), seed % 3
    run = simulate(
        counting.train, seed=seed, consistency=model, optimizer="add", lease_s=2.0, timeout_s=20.0,
        plan=lambda sim: counting.at_step(dead, (2, 7, 11)[seed], lambda: sim.kill_worker(dead, notice=notice)),
    )  # fmt: skip
    assert run.scripts[dead].is_killed
    check_counts(run, deaths=1)


def restarts(counting: Counting, seed: int, model: str, on_worker_loss: str, deaths: int = 4) -> Run:
    """Workers die at any time, most with pushes and ticks under way, and start again."""
    rng = np.random.default_rng(seed)

    def plan(sim: Simulator) -> None:
        for at in rng.random(deaths):
            restart(sim, int(rng.integers(3)), counting.train, at=0.4 * float(at), after=0.01)

    return simulate(
        counting.train, seed=seed, consistency=model, optimizer="add", faults=ROUGH, apply_s=0.02,
        on_worker_loss=on_worker_loss, plan=plan,
    )  # fmt: skip


@pytest.mark.parametrize("model", ADDS)
@pytest.mark.parametrize("on_worker_loss", ["drop", "wait"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_left_out_whoever_dies_when(seed: int, on_worker_loss: str, model: str) -> None:
    check_counts(restarts(Counting(), seed, model, on_worker_loss), deaths=4)


@pytest.mark.parametrize("model", ADDS)
@pytest.mark.parametrize("on_worker_loss", ["drop", "wait"])
@pytest.mark.parametrize("seed", range(5))
def test_a_restarted_worker_takes_part_again(seed: int, on_worker_loss: str, model: str) -> None:
    counting, dead = Counting(), seed % 3

    def plan(sim: Simulator) -> None:
        again = 0.003 * seed
        counting.at_step(dead, 2 + 2 * seed, lambda: restart(sim, dead, counting.train, at=again, after=0.02))

    run = simulate(
        counting.train, seed=seed, consistency=model, optimizer="add", on_worker_loss=on_worker_loss, plan=plan
    )
    check_counts(run, deaths=1)
    assert all(result is not None for result in run.results), run.say("a worker did not come through")


@pytest.mark.parametrize("model", [model for model in MODELS if model not in ADDS])
@pytest.mark.parametrize("seed", range(3))
def test_other_models_come_to_their_end_with_a_death_on_the_way(seed: int, model: str) -> None:
    """What `local` pushes is no count, and `quorum` refuses who is late."""
    counting, dead = Counting(), seed % 3
    run = simulate(
        counting.train, seed=seed, consistency=model,
        plan=lambda sim: counting.at_step(dead, 3 + seed, lambda: sim.kill_worker(dead)),
    )  # fmt: skip
    assert everything_is_done(run) and sum(counting.spans.values()) >= EXAMPLES * EPOCHS - BATCH


def test_who_leaves_early_gives_back_what_it_has_not_computed() -> None:
    """And only that: with its good-bye the controller hears of the last that it has."""
    counting = Counting()

    def leaves(client: Client) -> None:
        client.register({"count": np.zeros(EXAMPLES, np.float32), "small": np.zeros(1, np.float32)})
        batches = ps.data.leased(EXAMPLES, client, batch=BATCH, epochs=EPOCHS, lease=3 * BATCH)
        indices = next(batches)
        for _ in range(2):
            grad = np.zeros(EXAMPLES, np.float32)
            grad[indices] = 1 / len(indices)
            client.push({"count": grad, "small": np.zeros(1, np.float32)}, weight=len(indices))
            client.tick()
            indices = next(batches)

    check_counts(simulate({0: leaves, 1: counting.train}, seed=1, workers=2, consistency="async", optimizer="add"))


@pytest.mark.parametrize("seed", range(6))
def test_under_quorum_idle_workers_take_nobodys_place(seed: int) -> None:
    """One has 40 of 50 examples, one 10, one none: with two for a quorum nobody is ever too late."""

    def train(client: Client) -> None:
        client.register({"count": np.zeros(EXAMPLES, np.float32)})
        for indices in ps.data.leased(EXAMPLES, client, batch=BATCH, epochs=1, lease=40):
            client.pull()
            client.spend(STEP_S)
            grad = np.zeros(EXAMPLES, np.float32)
            grad[indices] = 1 / len(indices)
            client.push({"count": grad}, weight=len(indices))
            client.tick()

    run = simulate(train, seed=seed, consistency="quorum:n=2", optimizer="add")
    assert (np.rint(run.final()["count"]) == 1).all(), run.say(f"{run.final()['count']}")


def test_weights_keep_the_mean_exact_where_batches_are_short() -> None:
    """bsp: every step is that of one process with all examples of the clock, whatever the workers' shares."""
    rng = np.random.default_rng(0)
    target = rng.integers(-8, 8, EXAMPLES).astype(np.float32)
    clocks: dict[int, list[int]] = {}

    def train(client: Client) -> Array:
        client.register({"w": np.zeros(1, np.float32)})
        for x, index in ps.data.leased((target, np.arange(EXAMPLES)), client, batch=7, epochs=2, lease=15):
            clocks.setdefault(client.clock, []).extend(index.tolist())
            w = client.pull()["w"]
            client.push({"w": np.mean(w - x, keepdims=True)}, weight=len(x))
            client.tick()
        return client.pull()["w"]

    run = simulate(train, seed=3, optimizer="sgd:lr=0.5")
    w = np.zeros(1)
    for _, indices in sorted(clocks.items()):
        w -= 0.5 * np.mean(w - target[indices])
    np.testing.assert_allclose(run.final()["w"], w, rtol=1e-5)
    assert sorted(i for indices in clocks.values() for i in indices) == sorted(2 * list(range(EXAMPLES)))


def test_a_whole_job_goes_on_from_the_states_of_its_workers() -> None:
    """Each names what it has done; after a barrier nobody is lent any of that again."""
    states: dict[int, object] = {}
    first: list[int] = []

    def begin(client: Client) -> None:
        client.register({"w": np.zeros(1, np.float32)})
        batches = ps.data.leased(EXAMPLES, client, batch=BATCH, epochs=1, lease=2 * BATCH)
        for _ in range(3):
            first.extend(next(batches).tolist())
            client.pull()
            client.push({"w": np.ones(1, np.float32)}, weight=BATCH)
            client.tick()
        client.barrier()
        next(batches)
        states[client.rank] = client.state()["ps.data.data"]

    simulate(begin, seed=1, workers=2, consistency="async")
    rest: list[int] = []

    def go_on(client: Client) -> None:
        client.register({"w": np.zeros(1, np.float32)})
        batches = ps.data.leased(EXAMPLES, client, batch=BATCH, epochs=1, lease=2 * BATCH)
        client.load_state({"ps.data.data": states[client.rank]})
        client.barrier()
        for indices in batches:
            rest.extend(indices.tolist())
            client.pull()
            client.push({"w": np.ones(1, np.float32)}, weight=len(indices))
            client.tick()

    simulate(go_on, seed=1, workers=2, consistency="async")
    assert sorted(first + rest) == list(range(EXAMPLES))
