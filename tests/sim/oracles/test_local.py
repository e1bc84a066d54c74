"""Local SGD, DiLoCo, elastic averaging and Downpour against their formulas in NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from ps import keyspace
from ps.sim.links import LinkFaults
from ps.types import Array
from ps.worker.client import Client
from ps.worker.verdicts import Accumulated
from tests.sim.helpers import APPLY_S, FAULTS, Run, relative, same_bytes, simulate
from tests.sim.oracles.problem import BUNDLE, CUT, DOUBLE, SLICE_ELEMENTS, Values, combine, make_step

SHAPES = {**BUNDLE, **CUT, **DOUBLE}


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "SLICE_ELEMENTS_MAX", SLICE_ELEMENTS)


@dataclass
class Problem:
    """A quadratic per worker, the same at all clocks; `exact`: its gradients at clock 0 are small integers over 32."""

    seed: int
    workers: int
    clocks: int
    exact: bool = False
    weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.weights = self.weights or rng.choice([1.0, 2.0, 0.3, 7.7], self.workers).tolist()
        self.initial = {name: self._draw(rng, name, shape) for name, shape in SHAPES.items()}
        self.targets = [
            {name: self._draw(rng, name, shape) for name, shape in SHAPES.items()} for _ in range(self.workers)
        ]

    def _draw(self, rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
        values = rng.integers(-32, 32, shape) / 32 if self.exact else rng.standard_normal(shape)
        return np.asarray(values, np.float64 if name in DOUBLE else np.float32)

    def gradient(self, rank: int, name: str, value: Array) -> Array:
        """Of |value - target|^2 / 2."""
        return np.asarray(value - self.targets[rank][name])

    def train(self, client: Client) -> list[Values]:
        """Pull, push, tick at every clock; returns what was pulled."""
        client.register(self.initial)
        read = []
        for _ in range(client.clock, self.clocks):
            values = client.pull()
            read.append(values)
            grads = {name: self.gradient(client.rank, name, value) for name, value in values.items()}
            client.push(grads, weight=self.weights[client.rank])
            client.tick()
        return [*read, client.pull()]

    def rounds(self, every: int, local_lr: float, outer: str) -> list[list[Values]]:
        """H local steps per round, then an outer step on the weighted mean of theta - theta_k. Reads by rank, clock."""
        theta = self.initial
        steps = {name: make_step(outer, value) for name, value in theta.items()}
        reads: list[list[Values]] = [[] for _ in range(self.workers)]
        for _ in range(0, self.clocks, every):
            replicas = []
            for rank in range(self.workers):
                replica = theta
                for _ in range(every):
                    reads[rank].append(replica)
                    replica = {
                        name: np.asarray(value - self.gradient(rank, name, value) * value.dtype.type(local_lr))
                        for name, value in replica.items()
                    }
                replicas.append(replica)
            deltas = {
                name: combine([(w, theta[name] - r[name]) for w, r in zip(self.weights, replicas, strict=True)])
                for name in theta
            }
            theta = {name: steps[name](theta[name], deltas[name], 1.0) for name in theta}
        for read in reads:
            read.append(theta)
        return reads


def check_reads(run: Run, expected: list[list[Values]]) -> None:
    for rank, (got, wanted) in enumerate(zip(run.results, expected, strict=True)):
        for clock, (values, want) in enumerate(zip(got, wanted, strict=True)):
            same_bytes(run, values, want, f"worker {rank} at clock {clock}")


@pytest.mark.parametrize("outer", ["sgd:lr=1", "nesterov:lr=0.7,decay=0.9", "adam:lr=0.1", "momentum:lr=1,decay=0.5"])
@pytest.mark.parametrize(
    ("seed", "workers", "every"), [(0, 1, 1), (1, 2, 1), (2, 3, 2), (3, 5, 4), (4, 2, 8), (5, 4, 3)]
)
def test_local_steps_and_the_outer_step_are_the_formula_to_the_bit(
    seed: int, workers: int, every: int, outer: str
) -> None:
    """sgd:lr=1 is model averaging (SparkNet), nesterov:lr=0.7,decay=0.9 is DiLoCo; both also under faults."""
    problem = Problem(seed, workers, clocks=every * 3)
    run = simulate(
        problem.train, seed=seed, workers=workers, servers=1 + seed % 3, optimizer=outer,
        consistency=f"local:every={every},local_lr=0.125", apply_s=APPLY_S if seed % 2 else 0.0,
    )  # fmt: skip
    check_reads(run, problem.rounds(every, 0.125, outer))
    assert all(len(run.commits(slice_id)) == 3 for slice_id in range(run.slices)), run.say("one commit per round")


def flat(run: Run, slice_id: int, values: Values) -> Array:
    """What a slice holds of these parameters."""
    keyspace = run.sim.controller.core.batches.keyspace
    pieces = keyspace.slices[slice_id].pieces
    return np.concatenate([values[keyspace.parameters[p.parameter].name].reshape(-1)[p.start : p.stop] for p in pieces])


@pytest.mark.parametrize(
    "outer", ["sgd:lr=1", "nesterov:lr=0.7", "delayed_nesterov:lr=0.7,period=3", "delayed_nesterov:lr=1,period=2,c=0.2"]
)
@pytest.mark.parametrize(("seed", "workers", "every"), [(0, 1, 2), (1, 2, 1), (2, 3, 3), (3, 4, 2)])
def test_asynchronous_local_steps_are_the_formula_in_the_order_of_the_log(
    seed: int, workers: int, every: int, outer: str
) -> None:
    """Each commit is one worker's delta from the version that it has read, at the rate of the optimizer / workers."""
    problem, local_lr = Problem(seed, workers, clocks=every * 4), 0.125

    def train(client: Client) -> None:
        client.register(problem.initial)
        for _ in range(problem.clocks):
            values = client.pull()
            client.spend(0.003 * (1 + 2 * client.rank))
            client.push({name: problem.gradient(client.rank, name, value) for name, value in values.items()})
            client.tick()
        client.barrier()  # who leaves early raises the rate of the others

    run = simulate(
        train, seed=seed, workers=workers, servers=1 + seed % 2, optimizer=outer,
        consistency=f"async_local:every={every},local_lr={local_lr}",
    )  # fmt: skip
    lr, stale = float(outer.partition("lr=")[2].partition(",")[0]), 0
    for slice_id in range(run.slices):
        history = [flat(run, slice_id, problem.initial)]
        step = make_step(outer, history[0])
        for commit in run.commits(slice_id):
            (push,) = commit.contributions
            base = replica = history[commit.version - 1 - commit.staleness]
            target = flat(run, slice_id, problem.targets[push.worker])
            for _ in range(every):
                replica = replica - (replica - target) * base.dtype.type(local_lr)
            assert commit.lr == pytest.approx(lr / workers, rel=1e-15)
            history.append(step(history[-1], np.asarray(base - replica), commit.lr / lr))
            stale += commit.staleness
        assert len(history) == 1 + workers * 4, run.say("one commit per worker and round")
        same_bytes(run, {"": flat(run, slice_id, run.final())}, {"": history[-1]}, f"slice {slice_id}")
    assert stale or workers == 1, run.say("somebody should have been overtaken")


@pytest.mark.parametrize(("seed", "workers", "every"), [(0, 1, 2), (1, 2, 1), (2, 3, 3), (3, 4, 2)])
def test_elastic_averaging_is_the_formula_in_the_order_of_the_log(seed: int, workers: int, every: int) -> None:
    """d = alpha * (w_k - w), with w as it was read for the exchange, leaves w_k and comes into w; w_k is never w."""
    problem, alpha, local_lr = Problem(seed, workers, clocks=every * 4), 0.3, 0.125

    def train(client: Client) -> Values:
        client.register(problem.initial)
        client.pull()
        client.barrier()  # all start from the initial values
        for _ in range(problem.clocks):
            values = client.pull()
            client.spend(0.003 * (1 + 2 * client.rank))
            grads = {name: problem.gradient(client.rank, name, value) for name, value in values.items()}
            client.push(grads, weight=problem.weights[client.rank])
            client.tick()
        return client.pull()

    run = simulate(
        train, seed=seed, workers=workers, servers=1 + seed % 2, optimizer="add",
        consistency=f"easgd:alpha={alpha},every={every},local_lr={local_lr}",
    )  # fmt: skip
    stale = 0
    for slice_id in range(run.slices):
        history = [flat(run, slice_id, problem.initial)]
        own = [history[0]] * workers
        for commit in run.commits(slice_id):
            (push,) = commit.contributions
            w, base = own[push.worker], history[commit.version - 1 - commit.staleness]
            for _ in range(every):
                w = w - (w - flat(run, slice_id, problem.targets[push.worker])) * w.dtype.type(local_lr)
            d = (w - base) * w.dtype.type(alpha)
            own[push.worker] = w - d
            history.append(history[-1] + d)
            stale += commit.staleness
        assert len(history) == 1 + workers * 4, run.say("one exchange per worker and round")
        same_bytes(run, {"": flat(run, slice_id, run.final())}, {"": history[-1]}, f"slice {slice_id}")
        for rank, values in enumerate(run.results):
            same_bytes(run, {"": flat(run, slice_id, values)}, {"": own[rank]}, f"slice {slice_id} of worker {rank}")
    assert stale or workers == 1, run.say("somebody should have been overtaken")


@pytest.mark.parametrize("seed", range(3))
def test_averaging_gives_the_weighted_mean_of_the_models(seed: int) -> None:
    """The delta form theta - mean(theta - theta_k) is the mean of the theta_k, to rounding."""
    problem = Problem(seed, workers=3, clocks=4)
    run = simulate(problem.train, seed=seed, consistency="local:every=4,local_lr=0.25", optimizer="sgd:lr=1")
    for name, start in problem.initial.items():
        models = []
        for rank in range(3):
            w = start.astype(np.float64)
            for _ in range(4):
                w = w - 0.25 * problem.gradient(rank, name, w)
            models.append(w)
        mean = np.average(models, axis=0, weights=problem.weights)
        off = relative(run.final()[name], mean) if start.size else 0.0
        assert off < 1e-6, run.say(f"{name}: off by {off:g}")


@pytest.mark.parametrize("seed", range(4))
def test_one_local_step_with_exact_numbers_is_bsp_to_the_bit(seed: int) -> None:
    """Rates and weights are powers of two and gradients short binary fractions, so that nothing is ever rounded."""
    workers = 2 ** (1 + seed % 3)
    problem = Problem(seed, workers, clocks=3, exact=True, weights=[0.5] * workers)
    bsp = simulate(problem.train, seed=seed, workers=workers, optimizer="sgd:lr=0.25")
    local = simulate(
        problem.train, seed=seed, workers=workers, optimizer="sgd:lr=1", consistency="local:every=1,local_lr=0.25"
    )
    same_bytes(local, local.final(), bsp.final(), "local, every=1, and bsp")


@pytest.mark.parametrize("seed", range(4))
def test_one_local_step_is_bsp_to_rounding(seed: int) -> None:
    problem = Problem(seed, workers=3, clocks=8)
    bsp = simulate(problem.train, seed=seed, optimizer="sgd:lr=0.1")
    local = simulate(problem.train, seed=seed, optimizer="sgd:lr=1", consistency="local:every=1,local_lr=0.1")
    for name, want in bsp.final().items():
        off = relative(local.final()[name], want) if want.size else 0.0
        assert off < 1e-6, local.say(f"{name}: off by {off:g}")


@pytest.mark.parametrize("seed", range(3))
def test_local_sgd_sends_one_push_and_one_pull_per_round(seed: int) -> None:
    problem = Problem(seed, workers=2, clocks=12)
    sent = {}
    for every in (1, 4):
        run = simulate(
            problem.train, seed=seed, workers=2, servers=1, optimizer="sgd:lr=1", faults=LinkFaults(), resend_s=10.0,
            consistency=f"local:every={every},local_lr=0.1",
        )  # fmt: skip
        sent[every] = (run.counted("push_messages"), run.counted("pull_messages"))
    assert sent == {1: (24, 26), 4: (6, 8)}, f"seed {seed}: messages by H: {sent}"


@pytest.mark.parametrize(
    ("seed", "push_every", "pull_every", "local_lr", "outer"),
    [
        (0, 1, 1, 0.0, "sgd:lr=0.1"),
        (1, 2, 2, 0.05, "sgd:lr=0.1"),
        (2, 3, 1, 0.05, "momentum:lr=0.1,decay=0.8"),
        (3, 1, 4, 0.1, "sgd:lr=0.1"),
        (4, 2, 3, 0.1, "adagrad:lr=0.1,eps=1e-6"),
        (5, 4, 2, 0.02, "adam:lr=0.03"),
        (6, 3, 5, 0.02, "sgd:lr=0.1"),
    ],
)
def test_downpour_of_one_worker_is_its_loop_to_the_bit(
    seed: int, push_every: int, pull_every: int, local_lr: float, outer: str
) -> None:
    """Every pull_every clocks w <- servers; g = grad(w); acc += g; w -= local_lr * g; every push_every clocks push acc.

    The gradient that travels is (sum of weight * g) / (mean of the weights): for equal weights the sum of the g.
    """
    problem = Problem(seed, workers=1, clocks=12)
    spelled = f"downpour:push_every={push_every},pull_every={pull_every},local_lr={local_lr}"
    run = simulate(problem.train, seed=seed, workers=1, servers=1 + seed % 3, consistency=spelled, optimizer=outer)
    servers = problem.initial
    steps = {name: make_step(outer, value) for name, value in servers.items()}
    w, weight = servers, problem.weights[0]
    summed = {name: np.zeros_like(value) for name, value in servers.items()}
    for clock in range(12):
        if clock % pull_every == 0:
            w = servers
        same_bytes(run, run.results[0][clock], w, f"read at clock {clock}")
        for name, value in w.items():
            scale, grad = value.dtype.type, problem.gradient(0, name, value)
            if push_every == 1:
                servers = {**servers, name: steps[name](servers[name], grad, 1.0)}
            else:
                summed[name] = np.asarray(summed[name] + grad * scale(weight))
                if (clock + 1) % push_every == 0:
                    mean_weight = scale(math.fsum([weight] * push_every) / push_every)
                    servers = {**servers, name: steps[name](servers[name], summed[name] / mean_weight, 1.0)}
                    summed[name] = np.zeros_like(value)
        w = {n: np.asarray(v - problem.gradient(0, n, v) * v.dtype.type(local_lr)) for n, v in w.items()}
    same_bytes(run, run.final(), servers, "servers")


@pytest.mark.parametrize("seed", range(3))
def test_downpour_loses_no_gradient_whatever_the_cadence(seed: int) -> None:
    """Each worker's push of each clock marks an element: all are in the values once, at rate 1 / workers."""
    workers, clocks = 3, 12

    def train(client: Client) -> list[bool]:
        client.register({"w": np.zeros((workers, clocks), np.float32)})
        local = []
        for clock in range(clocks):
            client.pull()
            mark = np.zeros((workers, clocks), np.float32)
            mark[client.rank, clock] = 1
            future = client.push({"w": mark}, weight=1.0)
            client.tick()
            local.append(future.verdicts() == {"": Accumulated()})
        client.barrier()
        return local

    run = simulate(
        train, seed=seed, faults=FAULTS, consistency="downpour:push_every=3,pull_every=4,local_lr=0.1", optimizer="add"
    )
    assert (run.final()["w"] == 1).all(), run.say(f"updates: {run.final()['w']}")
    for local in run.results:
        assert all(local), run.say(f"accumulated at clocks: {local}")


def test_downpour_warm_start_lets_one_worker_go_first() -> None:
    def train(client: Client) -> int:
        client.register({"w": np.zeros(3, np.float32)})
        client.pull()
        first = int(client._worker.session.base_S[0])
        for _ in range(10):
            client.push({"w": np.ones(3, np.float32)})
            client.tick()
            client.spend(0.01)
            client.pull()
        return first

    run = simulate(train, seed=1, consistency="downpour:warm_start=6")
    assert run.results[0] == 0 and min(run.results[1:]) >= 6, run.say(f"first versions read: {run.results}")
