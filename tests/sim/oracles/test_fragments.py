"""Streaming DiLoCo: fragments that take turns, and steps while an exchange is under way, against a loop in NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from ps import keyspace
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.types import Array
from ps.worker.client import Client
from tests.sim.helpers import APPLY_S, FAULTS, Run, relative, restart, same_bytes, simulate

SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 2), "d": (7,), "e": (1,)}  # a slice each, dealt to fragments in this order
LR, MU, OUTER = 0.05, 0.9, 0.7
Values = dict[str, Array]


@pytest.fixture(autouse=True)
def _no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "BUNDLE_MEMBER_BYTES_MAX", 0)


@dataclass(frozen=True)
class Problem:
    """|M x - y_k|^2 / 2 for worker k, in float64: the gradient of each fragment depends on all others.

    clocks: of each worker. share: of the steps, that each worker makes (Client.take_steps).
    """

    seed: int
    clocks: tuple[int, ...]
    every: int
    fragments: int = 1
    overlap: int = 0
    mix: float = 0.0
    share: tuple[float, ...] = ()

    @property
    def consistency(self) -> str:
        numbers = f"fragments={self.fragments},overlap={self.overlap},mix={self.mix}"
        return f"local:every={self.every},local_lr={LR},{numbers}"

    @property
    def stretch(self) -> int:
        return self.every // self.fragments

    def initial(self) -> Values:
        rng = np.random.default_rng(self.seed)
        return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}

    def gradients(self, rank: int, values: Values) -> Values:
        size = sum(value.size for value in values.values())
        m, y = np.random.default_rng([self.seed, 1]), np.random.default_rng([self.seed, 2, rank])
        matrix = m.standard_normal((size, size)) / np.sqrt(size)
        x = np.concatenate([value.reshape(-1) for value in values.values()])
        flat = matrix.T @ (matrix @ x - y.standard_normal(size))
        ends = np.cumsum([value.size for value in values.values()])[:-1]
        parts = np.split(flat, ends)
        return {name: part.reshape(SHAPES[name]) for name, part in zip(values, parts, strict=True)}

    def weight(self, rank: int, clock: int) -> float:
        return float(np.random.default_rng([self.seed, 3, rank, clock]).choice([0.5, 1.0, 3.0]))

    def train(self, client: Client) -> dict[int, Values]:
        """Returns what was pulled, by clock."""
        client.register(self.initial())
        if self.share:
            client.take_steps(self.share[client.rank])
        reads = {}
        while client.clock < self.clocks[client.rank]:
            reads[client.clock] = values = client.pull()
            client.push(self.gradients(client.rank, values), weight=self.weight(client.rank, client.clock))
            client.tick()
        reads[client.clock] = client.pull()
        return reads

    def run(self, **options: object) -> Run:
        return simulate(
            self.train, seed=self.seed, workers=len(self.clocks), consistency=self.consistency,
            optimizer=f"nesterov:lr={OUTER},decay={MU}", **options,  # type: ignore[arg-type]
        )  # fmt: skip


class Twin:
    """The same training in one loop. reborn: rank and clock of a worker that begins again, from the servers' values."""

    def __init__(self, problem: Problem, reborn: tuple[int, int] = (-1, -1)) -> None:
        self.problem, self.ranks = problem, range(len(problem.clocks))
        self.theta = problem.initial()
        self.velocity = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        self.own = [dict(self.theta) for _ in self.ranks]
        self.anchor = [dict(self.theta) for _ in self.ranks]
        self.weights: list[dict[str, list[float]]] = [{name: [] for name in SHAPES} for _ in self.ranks]
        self.coming: list[tuple[int, str, Array, set[int]]] = []  # clock, name, values that enter then, and with whom
        self.reads: list[dict[int, Values]] = [{} for _ in self.ranks]
        for clock in range(max(problem.clocks) + problem.every):
            for rank in self.ranks:
                if (rank, clock) == reborn:
                    self.own[rank], self.anchor[rank] = dict(self.theta), dict(self.theta)
                    self.weights[rank] = {name: [] for name in SHAPES}
                    for *_, ranks in self.coming:
                        ranks.discard(rank)
                self._step(rank, clock)
            self._end(clock + 1)

    def _step(self, rank: int, clock: int) -> None:
        problem = self.problem
        if clock <= problem.clocks[rank]:
            self.reads[rank][clock] = dict(self.own[rank])
        share = problem.share[rank] if problem.share else 1.0
        if clock >= problem.clocks[rank] or clock % problem.stretch >= max(int(share * problem.stretch), 1):
            return
        for name, grad in problem.gradients(rank, self.own[rank]).items():
            self.own[rank][name] = self.own[rank][name] - LR * grad
            self.weights[rank][name].append(problem.weight(rank, clock))

    def _end(self, clock: int) -> None:
        """Of this clock: what is due enters, the fragment whose turn it is commits."""
        problem = self.problem
        for due, name, values, ranks in self.coming:
            if due == clock:
                self._enter(name, values, ranks)
        for place, name in enumerate(SHAPES):
            if (clock - place % problem.fragments * problem.stretch) % problem.every == 0:
                self._commit(name)
                if problem.overlap:
                    self.coming.append((clock + problem.overlap, name, self.theta[name], set(self.ranks)))
                else:
                    self._enter(name, self.theta[name], self.ranks)

    def _commit(self, name: str) -> None:
        deltas, weights = [], []
        for rank in self.ranks:
            if given := self.weights[rank][name]:
                deltas.append(self.anchor[rank][name] - self.own[rank][name])
                weights.append(sum(given) / len(given))
            self.weights[rank][name] = []
        if deltas:
            mean = np.average(deltas, axis=0, weights=weights)
            self.velocity[name] = MU * self.velocity[name] + mean
            self.theta[name] = self.theta[name] - OUTER * (mean + MU * self.velocity[name])

    def _enter(self, name: str, values: Array, ranks: Iterable[int]) -> None:
        for rank in ranks:
            self.own[rank][name] = self.problem.mix * self.own[rank][name] + (1 - self.problem.mix) * values
            self.anchor[rank][name] = values


def check(run: Run, twin: Twin, results: Sequence[dict[int, Values]]) -> None:
    for rank, reads in enumerate(results):
        for clock, values in reads.items():
            close(run, values, twin.reads[rank][clock], f"worker {rank} at clock {clock}")
    close(run, run.final(), twin.theta, "servers")


def close(run: Run, got: Values, want: Values, where: str) -> None:
    for name in SHAPES:
        off = relative(got[name], want[name])
        assert off < 1e-12, run.say(f"{where}: {name}: off by {off:g}")


# ---- against the loop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(
    "problem",
    [
        Problem(0, (12, 12), every=4),
        Problem(1, (12, 12, 12), every=4, fragments=2),
        Problem(2, (8, 8), every=4, fragments=4),
        Problem(3, (10, 10), every=6, fragments=3),  # ends in mid-round
        Problem(4, (16, 16), every=8, fragments=8),  # more than slices: some turns are nobody's
        Problem(5, (3, 3, 3), every=1),
        Problem(6, (7,), every=4, fragments=2),
        Problem(7, (12, 12), every=4, fragments=2, mix=0.25),
        Problem(8, (11, 4, 6), every=4, fragments=2),  # workers leave in mid-round
    ],
    ids=str,
)
def test_fragments_with_rounds_of_their_own_are_the_loop(problem: Problem, servers: int) -> None:
    run = problem.run(servers=servers, faults=FAULTS, apply_s=APPLY_S)
    check(run, Twin(problem), run.results)


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize(
    "problem",
    [
        Problem(0, (12, 12), every=4, overlap=1, mix=0.5),
        Problem(1, (13, 13), every=4, overlap=3),  # over just before the next begins, and a round is open at the end
        Problem(2, (12, 12, 12), every=8, fragments=2, overlap=2, mix=0.5),
        Problem(3, (11, 11), every=6, fragments=3, overlap=1, mix=0.25),
        Problem(4, (9,), every=8, fragments=2, overlap=3, mix=0.5),
        Problem(5, (18, 7, 10), every=8, fragments=2, overlap=3, mix=0.5),
    ],
    ids=str,
)
def test_what_comes_while_a_worker_steps_on_enters_at_its_clock(problem: Problem, servers: int) -> None:
    run = problem.run(servers=servers, faults=FAULTS, apply_s=APPLY_S)
    check(run, Twin(problem), run.results)


@pytest.mark.parametrize(
    "problem",
    [
        Problem(0, (16, 16), every=8, fragments=2, share=(0.5, 1.0)),
        Problem(1, (16, 16), every=8, fragments=2, overlap=3, mix=0.5, share=(0.25, 1.0)),  # passed over when it is due
        Problem(2, (16, 16), every=4, overlap=2, mix=0.5, share=(1.0, 0.3)),
    ],
    ids=str,
)
def test_a_slow_worker_makes_its_share_of_the_steps_between_exchanges(problem: Problem) -> None:
    run = problem.run(faults=FAULTS)
    check(run, Twin(problem), run.results)
    steps = [len(reads) - 1 for reads in run.results]
    assert min(steps) < 16 and max(steps) == 16, run.say(f"steps: {steps}")


@pytest.mark.parametrize("seed", range(3))
def test_one_fragment_without_overlap_is_diloco_to_the_bit(seed: int) -> None:
    problem = Problem(seed, (10, 10), every=4)
    run = problem.run()
    plain = simulate(
        problem.train, seed=seed, workers=2, consistency=f"local:every=4,local_lr={LR}",
        optimizer=f"nesterov:lr={OUTER},decay={MU}",
    )  # fmt: skip
    same_bytes(run, run.final(), plain.final(), "servers")


# ---- deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 2, 3])
@pytest.mark.parametrize("dies", [2, 5, 7, 8])
@pytest.mark.parametrize("overlap", [0, 1])
def test_a_restarted_worker_goes_on_from_the_last_exchange_with_the_servers_values(
    overlap: int, dies: int, servers: int
) -> None:
    """Its own steps in rounds that were open then are lost, whoever's turn it was: no server has them."""
    problem = Problem(dies, (12, 12, 12), every=8, fragments=4, overlap=overlap, mix=0.5 * overlap)
    sims: list[Simulator] = []
    lives: list[int] = []
    seen: list[dict[int, Values]] = [{} for _ in range(3)]

    def train(client: Client) -> None:
        lives.append(client.rank)
        client.register(problem.initial())
        while client.clock < 12:
            seen[client.rank][client.clock] = values = client.pull()
            if (client.rank, client.clock, lives.count(1)) == (1, dies, 1):
                client.spend(1.0)  # all that it has sent arrives
                restart(sims[0], 1, train, at=0.0)
                client.spend(10.0)
            client.push(problem.gradients(client.rank, values), weight=problem.weight(client.rank, client.clock))
            client.tick()
        seen[client.rank][client.clock] = client.pull()

    run = simulate(
        train, seed=dies, servers=servers, consistency=problem.consistency, on_worker_loss="wait", plan=sims.append,
        optimizer=f"nesterov:lr={OUTER},decay={MU}", faults=LinkFaults(reorder=0.3),
    )  # fmt: skip
    check(run, Twin(problem, reborn=(1, dies - dies % problem.stretch)), seen)


# ---- bytes ----------------------------------------------------------------------------------------------------------


def test_fragments_push_the_same_bytes_per_round_and_a_part_of_them_per_clock() -> None:
    sizes, peaks = {}, {}

    def train(client: Client) -> list[int]:
        names = [f"w{i}" for i in range(8)]
        client.register({name: np.zeros(64) for name in names})
        sent = [0]
        for _ in range(16):
            client.pull()
            client.push({name: np.ones(64) for name in names})
            client.tick()
            sent.append(client.metrics.snapshot().total("push_bytes"))
        return np.diff(sent).tolist()

    for fragments in (1, 2, 4, 8):
        run = simulate(
            train, seed=1, workers=2, servers=2, consistency=f"local:every=8,local_lr=0.1,fragments={fragments}",
            faults=LinkFaults(), resend_s=10.0,
        )  # fmt: skip
        for per_clock in run.results:
            sizes[fragments], peaks[fragments] = sum(per_clock[8:]), max(per_clock)
    assert sizes == dict.fromkeys((1, 2, 4, 8), 8 * 64 * 8), f"bytes of a round by fragments: {sizes}"
    assert peaks == {1: 4096, 2: 2048, 4: 1024, 8: 512}, f"bytes of a clock by fragments: {peaks}"
