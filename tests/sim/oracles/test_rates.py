"""One `lr` means one thing: the rate for one mean gradient of all workers per clock, under every model."""

from __future__ import annotations

import numpy as np
import pytest

from ps.server.ledger import LrChanged
from ps.sim.links import LinkFaults
from ps.types import Array
from ps.worker.client import Client
from tests.sim.helpers import APPLY_S, FAULTS, Run, same_bytes, simulate
from tests.sim.oracles.problem import BUNDLE, DOUBLE, Problem, Values, combine

LR = 0.02
MODELS = {  # model -> server optimizer
    "bsp": f"sgd:lr={LR}",
    "ssp:staleness=0": f"sgd:lr={LR}",
    "ssp:staleness=3": f"sgd:lr={LR}",
    "async": f"sgd:lr={LR}",
    "downpour:push_every=2,pull_every=2": f"sgd:lr={LR}",
    "quorum:n=99": f"sgd:lr={LR}",
    f"local:every=1,local_lr={LR}": "sgd:lr=1",
    f"local:every=4,local_lr={LR}": "sgd:lr=1",
    f"async_local:every=4,local_lr={LR}": "sgd:lr=1",
}


def quadratic(model: str, seed: int, workers: int, clocks: int, far: float) -> tuple[Run, Array, Array]:
    """Each worker pulls towards its own point, with curvature 1. The run, the start and the mean of these points."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((workers, 20)).astype(np.float32)
    start = np.full(20, far, np.float32)

    def train(client: Client) -> None:
        client.register({"w": start})
        for _ in range(clocks):
            w = client.pull()["w"]
            client.spend(0.02)
            client.push({"w": w - points[client.rank]})
            client.tick()
        client.barrier()  # who leaves earlier raises the rate of the others

    run = simulate(
        train, seed=seed, workers=workers, servers=1, consistency=model, optimizer=MODELS[model],
        faults=LinkFaults(), apply_s=1e-4,
    )  # fmt: skip
    return run, start, points.mean(0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("seed", "workers"), [(0, 1), (1, 2), (2, 5)])
def test_the_error_shrinks_by_one_minus_lr_per_clock(seed: int, workers: int, model: str) -> None:
    clocks = 40
    run, start, optimum = quadratic(model, seed, workers, clocks, far=100)
    left = np.linalg.norm(run.final()["w"] - optimum) / np.linalg.norm(start - optimum)
    rate = 1 - float(left) ** (1 / clocks)
    assert rate == pytest.approx(LR, rel=0.05), run.say(f"the error shrinks by {rate:.5f} per clock, not {LR}")


@pytest.mark.parametrize("model", [m for m in MODELS if not m.startswith(("downpour", "quorum"))])
@pytest.mark.parametrize(("seed", "workers"), [(5, 2), (6, 3)])
def test_equal_workers_meet_at_the_mean_of_their_optima(seed: int, workers: int, model: str) -> None:
    run, _, optimum = quadratic(model, seed, workers, 200, far=2)
    off = float(np.abs(run.final()["w"] - optimum).max())
    assert off < 0.1, run.say(f"off the mean of the optima by {off:.3f}")


@pytest.mark.parametrize("seed", range(4))
def test_set_lr_changes_the_rate_at_its_clock_to_the_bit(seed: int) -> None:
    """Said early by some worker, it holds from that clock on, on every shard; a later word on the same clock wins."""
    problem = Problem(seed, workers=3, clocks=10, groups=(BUNDLE, DOUBLE))

    def train(client: Client) -> list[Values]:
        if client.rank == 1:
            client.set_lr(0.5, at_clock=4)
            client.set_lr(0.0, at_clock=8)
            client.set_lr(0.25, at_clock=6)
        return problem.train(client)

    run = simulate(train, seed=seed, optimizer="momentum:lr=0.1,decay=0.8")
    rates = [0.1] * 4 + [0.5] * 2 + [0.25] * 2 + [0.0] * 2
    values = problem.initial()
    velocity = {name: np.zeros_like(value) for name, value in values.items()}
    for clock, lr in enumerate(rates):
        grads: dict[str, list[tuple[float, Array]]] = {name: [] for name in values}
        for rank in range(3):
            for call, push in enumerate(problem.pushes(rank, clock)):
                for name, grad in problem.gradients(rank, clock, call, push, values).items():
                    grads[name].append((push.weight, grad))
        velocity = {n: np.asarray(v * v.dtype.type(0.8) + combine(grads[n])) for n, v in velocity.items()}
        values = {n: np.asarray(w - velocity[n] * w.dtype.type(lr)) for n, w in values.items()}
    same_bytes(run, run.final(), values, "servers")
    for slice_id in range(run.slices):
        logged = [commit.lr for commit in run.commits(slice_id)]
        assert logged == rates, run.say(f"slice {slice_id}: rates {logged}")
    assert all(sum(isinstance(r, LrChanged) for r in log) == 3 for log in run.log), run.say("not on every shard")


@pytest.mark.parametrize("model", ["async", "ssp:staleness=2"])
@pytest.mark.parametrize("seed", range(3))
def test_schedule_and_set_lr_follow_the_slowest_worker(seed: int, model: str) -> None:
    """Commits on arrival: the rate's argument is the least finished clock at the commit, and it is divided by live."""

    def train(client: Client) -> list[tuple[int, float]]:
        client.register({"w": np.zeros(3, np.float32)})
        if client.rank == 0:
            client.set_lr(0.75, at_clock=7)
        told = []
        for _ in range(10):
            client.pull()
            told.append((int(client._worker.session.min_clock_S[0]), client.lr))
            client.spend(0.05 if client.rank == 1 else 0.02)
            client.push({"w": np.ones(3, np.float32)})
            client.tick()
        client.barrier()
        return told

    run = simulate(
        train, seed=seed, workers=2, servers=1, consistency=model, optimizer="adagrad:lr=0.8",
        schedule="step:every=2,decay=0.5", faults=FAULTS, apply_s=APPLY_S,
    )  # fmt: skip

    def rate(clock: int) -> float:
        return 0.75 if clock >= 7 else 0.8 * 0.5 ** (clock // 2)

    for told in run.results:
        assert [lr for _, lr in told] == [rate(clock) for clock, _ in told], run.say(f"told {told}")
    finished = [0, 0]
    for record in run.log[0]:
        match type(record).__name__:
            case "Finished":
                finished[record.worker] = record.clock  # type: ignore[union-attr]
            case "Commit":
                wanted = {rate(clock) / 2 for clock in range(max(min(finished) - 1, 0), min(finished) + 1)}
                assert record.lr in wanted, run.say(f"{record} at clocks {finished}, expected one of {wanted}")  # type: ignore[union-attr]
