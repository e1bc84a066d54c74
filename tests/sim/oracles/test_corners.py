"""Corners of cadence, restarts and ends. What does not hold yet is marked; once it passes, the mark has to go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ps.errors import PeerError, StoppedError
from ps.keyspace import Options
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.sim.scripts import Script
from ps.types import Array, PeerId
from ps.worker.client import Client
from tests.sim.helpers import Run, restart, simulate

ONE = np.ones(3, np.float32)
LOCAL2 = "local:every=2,local_lr=1"
LOCAL3 = "local:every=3,local_lr=1"
DOWNPOUR2 = "downpour:push_every=2,pull_every=2"


def alone(body: Callable[[Client, int], None], clocks: int, model: str) -> dict[str, float]:
    """One worker calls body(client, clock) and ticks, at rate 1: a unit gradient moves its parameter by -1."""

    def train(client: Client) -> None:
        client.register({"a": 0 * ONE, "b": 0 * ONE}, {"b": Options(weight_decay=0.0)})  # two slices
        for clock in range(clocks):
            body(client, clock)
            client.tick()
        client.pull()

    run = simulate(train, seed=1, workers=1, consistency=model, optimizer="sgd:lr=1", faults=LinkFaults())
    return {name: float(value[0]) for name, value in run.final().items()}


@pytest.mark.parametrize("model", [LOCAL2, DOWNPOUR2])
def test_what_was_pushed_off_cadence_travels_though_the_last_push_leaves_it_out(model: str) -> None:
    def body(client: Client, clock: int) -> None:
        client.pull()
        client.push({"a": ONE, "b": ONE} if clock % 2 == 0 else {"a": ONE})

    assert alone(body, 4, model) == {"a": -4, "b": -2}, f"seed 1, {model}"


@pytest.mark.parametrize("model", [LOCAL2, DOWNPOUR2])
def test_a_travelling_clock_needs_no_push_of_its_own(model: str) -> None:
    def body(client: Client, clock: int) -> None:
        client.pull()
        if clock % 2 == 0:
            client.push({"a": ONE})

    assert alone(body, 4, model)["a"] == -2, f"seed 1, {model}"


def test_two_pushes_in_a_travelling_clock_are_one_delta() -> None:
    def body(client: Client, clock: int) -> None:
        client.pull()
        client.push({"a": ONE})
        client.push({"a": ONE})

    assert alone(body, 4, LOCAL2)["a"] == -8, "seed 1"


def test_local_steps_count_once_though_not_every_clock_is_pulled() -> None:
    def body(client: Client, clock: int) -> None:
        if clock % 2 == 0:
            client.pull()
        client.push({"a": ONE})

    assert alone(body, 6, LOCAL3)["a"] == -6, "seed 1"


def test_a_second_pull_in_a_clock_keeps_the_local_step() -> None:
    def body(client: Client, clock: int) -> None:
        client.pull()
        client.push({"a": ONE})
        client.pull()

    assert alone(body, 4, LOCAL2)["a"] == -4, "seed 1"


def test_leaving_sends_what_was_accumulated() -> None:
    def body(client: Client, clock: int) -> None:
        client.pull()
        client.push({"a": ONE})

    assert alone(body, 3, DOWNPOUR2)["a"] == -3, "seed 1"


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("model", ["easgd:alpha=0.5,every=1", "local:every=2,mix=0.5", "local:every=2,overlap=1"])
def test_a_worker_whose_own_values_have_overflowed_goes_on_from_those_of_the_servers(model: str) -> None:
    def train(client: Client) -> float:
        client.register({"a": ONE})
        for clock in range(4):
            client.pull()
            client.push({"a": np.full(3, -3e38 if clock == 1 else 0, np.float32)})
            client.tick()
        return float(client.pull()["a"].max())

    run = simulate(train, seed=1, workers=1, consistency=f"{model},local_lr=10", optimizer="sgd:lr=1")
    assert run.results == [1.0] and (run.final()["a"] == 1).all(), run.say(f"{run.results}, {run.final()}")


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("model", ["local:every=2,local_lr=10", DOWNPOUR2])
def test_a_sum_that_overflows_on_the_worker_is_dropped_there_and_fences_nobody(model: str) -> None:
    def body(client: Client, clock: int) -> None:
        client.pull()
        client.push({"a": np.full(3, 3e38, np.float32)})

    assert np.isfinite(alone(body, 4, model)["a"]), f"seed 1, {model}"


def stepping(clocks: int, each: Callable[[Client, int], object]) -> Callable[[Client], int]:
    """A script that calls `each` at the end of every clock."""

    def train(client: Client) -> int:
        client.register({"a": 0 * ONE})
        for clock in range(client.clock, clocks):
            client.pull()
            client.spend(0.05)
            client.push({"a": ONE})
            client.tick()
            each(client, clock)
        return client.clock

    return train


def test_barriers_open_after_a_restart() -> None:
    train = stepping(8, lambda client, clock: client.barrier())
    run = simulate(
        train, seed=1, on_worker_loss="wait", faults=LinkFaults(), timeout_s=20.0,
        plan=lambda sim: restart(sim, 1, train, at=0.3),
    )  # fmt: skip
    assert run.results == [8, 8, 8], run.say(f"clocks {run.results}")


def test_a_barrier_under_quorum_opens_for_a_slow_worker() -> None:
    """The two fast ones wait at the barrier; the slow one needs one more worker for each of its commits."""
    train = stepping(15, lambda client, clock: client.barrier() if clock % 5 == 4 else None)

    def slow(client: Client) -> int:
        return stepping(15, lambda client, clock: client.barrier() if clock % 5 == 4 else client.spend(0.3))(client)

    run = simulate({0: train, 1: train, 2: slow}, seed=1, consistency="quorum:n=2", faults=LinkFaults(), timeout_s=20.0)
    assert run.results == [15] * 3, run.say(f"clocks {run.results}")


def test_a_joiner_learns_which_epochs_are_over() -> None:
    ended: dict[int, bool] = {}

    def train(client: Client) -> None:
        client.register({"a": 0 * ONE})
        if client.rank < 3:
            client.epoch_done(0)
        client.spend(1.0)
        ended[client.rank] = client.epoch_ended(0)

    def join(script: Script) -> None:
        script.spend(0.5)
        script.simulator.run_worker(3, train)

    run = simulate(train, seed=1, faults=LinkFaults(), plan=lambda sim: sim.spawn(PeerId("plan:0"), join))
    assert ended == dict.fromkeys(range(4), True), run.say(f"epoch 0 has ended for {ended}")


@pytest.mark.parametrize("seed", range(3))
def test_set_lr_without_a_clock_holds_from_the_callers_clock_on(seed: int) -> None:
    """All wait for the caller's tick of this clock, so its word could be there in time."""

    def train(client: Client) -> None:
        client.register({"a": 0 * ONE})
        for clock in range(6):
            client.pull()
            if (client.rank, clock) == (0, 3):
                client.set_lr(0.5)
            client.push({"a": ONE})
            client.tick()

    run = simulate(train, seed=seed, faults=LinkFaults())
    rates = [commit.lr for commit in run.commits(0)]
    assert rates == [0.1] * 3 + [0.5] * 3, run.say(f"rates {rates}")


def test_somebody_else_sends_the_initial_values_when_the_first_dies() -> None:
    """Dropped at any moment of its start; the others hold initial values too."""
    train = stepping(3, lambda client, clock: None)
    for step in range(30):
        run = simulate(
            train, seed=step, servers=1, faults=LinkFaults(), timeout_s=5.0,
            plan=lambda sim, at=step * 5e-4: sim.at(at, lambda: sim.kill_worker(0)),  # type: ignore[misc]
        )  # fmt: skip
        assert run.results[1:] == [3, 3], run.say(f"clocks {run.results}")


def test_a_fenced_worker_whose_script_goes_on_ends_the_job() -> None:
    """Else the others wait for it until their own deadline."""

    def train(client: Client) -> None:
        client.register({"a": 0 * ONE})
        for clock in range(5):
            client.pull()
            if (client.rank, clock) == (1, 2):
                client._worker.pushing.push({"a": np.nan * ONE}, 1.0, True, 1.0)
                client.tick()
                with pytest.raises(PeerError):
                    client.pull()
                return
            client.push({"a": ONE})
            client.tick()

    run: Run = simulate(train, seed=1, faults=LinkFaults(), timeout_s=5.0, fails=True)
    errors: list[BaseException | None] = [run.scripts[rank].error for rank in (0, 2)]
    assert all(isinstance(error, StoppedError) for error in errors), run.say(f"{errors}")
    values: Array = run.final()["a"]
    assert np.isfinite(values).all(), run.say(f"{values}")


def test_a_restart_amid_enrolment_gets_an_incarnation_of_its_own() -> None:
    def train(client: Client) -> None:
        client.register({"a": ONE})
        client.pull()

    def plan(sim: Simulator) -> None:
        restart(sim, 0, train, at=0.0005)

    simulate(train, seed=1, workers=1, on_worker_loss="wait", faults=LinkFaults(), plan=plan)


@pytest.mark.parametrize("model", ["async", "ssp:staleness=1", "downpour:push_every=2"])
@pytest.mark.parametrize("seed", range(8))
def test_a_restarted_worker_adds_each_of_its_clocks_once(seed: int, model: str) -> None:
    """Also where its last push was applied and its tick lost with it: every clock has an element to count in."""
    clocks = 6

    def train(client: Client) -> None:
        values = {"a": np.zeros((3, clocks), np.float32), "b": np.zeros((3, 2 * clocks), np.float32)}
        client.register(values, {"b": Options(weight_decay=0.0)})  # two slices
        for clock in range(client.clock, clocks):
            client.pull()
            one = np.zeros((3, clocks), np.float32)
            one[client.rank, clock] = 1
            two = np.zeros((3, 2 * clocks), np.float32)
            two[client.rank, 2 * clock] = 1
            client.push({"a": one, "b": two})
            client.push({"b": np.roll(two, 1)})  # a second one of this clock
            client.tick()

    def plan(sim: Simulator) -> None:
        for number in range(3):
            restart(sim, 1, train, at=0.03 + sim.random.random() * 0.3 + 0.3 * number)

    run = simulate(train, seed=seed, optimizer="add", consistency=model, on_worker_loss="wait", plan=plan)
    for name, value in run.final().items():
        assert (value == 1).all(), run.say(f"{name}: clocks counted {value.tolist()}")
