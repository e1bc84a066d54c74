"""Workers that come late, leave early, die and come back; parameters that come later; waits for one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from ps import keyspace
from ps.consistency import Gather
from ps.errors import StoppedError
from ps.server.ledger import Joined, Left
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.types import Array, worker_peer
from ps.worker.client import Client
from tests.sim.helpers import FAULTS, MODELS, ROUGH, Run, restart, same_bytes, simulate
from tests.sim.oracles.problem import BUNDLE, CUT, DOUBLE, SLICE_ELEMENTS, Problem, Push, Values, combine, make_step

GROUPS = (BUNDLE, DOUBLE, CUT)
PACE = 0.02  # seconds of compute per clock, at most


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "SLICE_ELEMENTS_MAX", SLICE_ELEMENTS)


def paced(problem: Problem) -> Callable[[Client], list[Values]]:
    """The problem's script with compute times from (seed, rank)."""

    def train(client: Client) -> list[Values]:
        rng = np.random.default_rng([problem.seed, client.rank])
        return problem.run(client, spend=lambda clock: float(rng.random()) * PACE)

    return train


def check_reads(run: Run, problem: Problem, expected: list[Values]) -> None:
    """Every read of every last incarnation, counted from the end; and the servers."""
    for rank, read in enumerate(run.results):
        first = len(expected) - len(read)
        for at, got in enumerate(read):
            same_bytes(run, got, expected[first + at], f"worker {rank} at clock {first + at}")
    same_bytes(run, run.final(), expected[-1], "servers")


# ---- dying and coming back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd:lr=0.1", "momentum:lr=0.1,decay=0.8", "adam:lr=0.03"])
@pytest.mark.parametrize("seed", range(12))
def test_bsp_with_deaths_is_the_uninterrupted_run_to_the_bit(seed: int, optimizer: str) -> None:
    """on_worker_loss=wait: some workers die, at any point, rank 0 in the middle of register, and start again."""
    rng = np.random.default_rng(seed)
    workers = int(rng.integers(1, 5))
    problem = Problem(seed, workers, clocks=8, sparse=seed % 2 == 0, repeated=seed % 3 == 0, groups=GROUPS)
    train = paced(problem)

    def plan(sim: Simulator) -> None:
        for _ in range(int(rng.integers(1, 5))):
            at = float(rng.choice([rng.random() * 0.03, rng.random() * 0.5]))
            restart(sim, int(rng.integers(workers)), train, at=at, after=float(rng.choice([0.0, 0.01, 0.3])))

    run = simulate(
        train, seed=seed, workers=workers, servers=1 + seed % 4, optimizer=optimizer, on_worker_loss="wait",
        plan=plan, faults=ROUGH if seed % 4 == 0 else FAULTS,
    )  # fmt: skip
    check_reads(run, problem, problem.one_process(optimizer))


@pytest.mark.parametrize("seed", range(40))
def test_late_copies_for_a_dead_worker_do_not_reach_its_successor(seed: int) -> None:
    """Everything comes twice, the copy up to 0.3 s later: answers to the dead one meet the questions of the new one."""
    problem = Problem(seed, workers=3, clocks=8, groups=(BUNDLE,))
    run = simulate(
        problem.train, seed=seed, servers=1, apply_s=0.0, on_worker_loss="wait",
        faults=LinkFaults(repeat=1.0, reorder=0.3, reorder_s=0.3),
        plan=lambda sim: restart(sim, 1, problem.train, at=0.02 + seed % 20 * 0.01),
    )  # fmt: skip
    check_reads(run, problem, problem.one_process("sgd:lr=0.1"))


@pytest.mark.parametrize("seed", range(10))
def test_what_a_dead_worker_had_sent_does_not_count_for_its_successor(seed: int) -> None:
    """Its last push comes before or after its death; only that of the next incarnation, of the same number, counts."""
    sims: list[Simulator] = []
    lives: list[int] = []

    def train(client: Client) -> None:
        lives.append(client.rank)
        client.register({"w": np.zeros(3, np.float32)})
        for clock in range(client.clock, 6):
            client.pull()
            if (client.rank, clock, lives.count(1)) == (1, 3, 1):
                client.push({"w": np.full(3, 1000, np.float32)})
                restart(sims[0], 1, train, at=0.0)
                client.spend(10.0)
            client.push({"w": np.ones(3, np.float32)})
            client.tick()

    run = simulate(
        train, seed=seed, workers=2, servers=1, optimizer="add", on_worker_loss="wait", plan=sims.append,
        faults=LinkFaults(repeat=0.5, reorder=0.7, reorder_s=0.2), resend_s=0.5,
    )  # fmt: skip
    assert (run.final()["w"] == 12).all(), run.say(f"values {run.final()['w']}, not 12")


@pytest.mark.parametrize("seed", range(12))
def test_a_shard_without_slices_does_not_throw_a_restarted_worker_back(seed: int) -> None:
    """Nobody waits for ticks there, so it may be many clocks behind."""
    problem = Problem(seed, workers=3, clocks=10, groups=(BUNDLE,))
    run = simulate(
        problem.train, seed=seed + 12, servers=3, faults=LinkFaults(drop=0.3), on_worker_loss="wait",
        plan=lambda sim: restart(sim, 1, problem.train, at=0.1 + seed % 10 * 0.02),
    )  # fmt: skip
    check_reads(run, problem, problem.one_process("sgd:lr=0.1"))


@pytest.mark.parametrize("seed", range(8))
def test_local_sgd_with_deaths_is_the_uninterrupted_run_to_the_bit(seed: int) -> None:
    """The successor goes on from the last exchange, and makes the same local steps again."""
    problem = Problem(seed, workers=3, clocks=12, groups=GROUPS)
    spelled = dict(consistency="local:every=3,local_lr=0.125", optimizer="nesterov:lr=0.7,decay=0.9")
    train = paced(problem)

    def plan(sim: Simulator) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(3):
            restart(sim, int(rng.integers(3)), train, at=float(rng.random()) * 0.4, after=0.05)

    quiet = simulate(problem.train, seed=seed, faults=LinkFaults(), on_worker_loss="wait", **spelled)  # type: ignore[arg-type]
    run = simulate(train, seed=seed, plan=plan, on_worker_loss="wait", **spelled)  # type: ignore[arg-type]
    same_bytes(run, run.final(), quiet.final(), "servers")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_under_every_model_deaths_end_in_no_deadlock(seed: int, model: str) -> None:
    """Three deaths in a row with on_worker_loss=wait: all scripts come to their end, followers and logs hold."""
    problem = Problem(seed, workers=3, clocks=8, groups=(BUNDLE, DOUBLE))
    train = paced(problem)

    def plan(sim: Simulator) -> None:
        rng = np.random.default_rng([seed, MODELS.index(model)])
        for rank in range(3):
            restart(sim, rank, train, at=float(rng.random()) * 0.3, after=float(rng.random()) * 0.1)

    run = simulate(train, seed=seed, consistency=model, optimizer="adam:lr=0.03", on_worker_loss="wait", plan=plan)
    assert all(np.isfinite(value).all() for value in run.final().values()), run.say("values")


def test_a_worker_that_does_not_come_back_ends_the_job_by_name() -> None:
    problem = Problem(1, workers=3, clocks=8, groups=(BUNDLE,))
    run = simulate(
        paced(problem), seed=1, on_worker_loss="wait", restart_s=5.0, fails=True,
        plan=lambda sim: sim.at(0.1, lambda: sim.kill_worker(2)),
    )  # fmt: skip
    for rank in (0, 1):
        error = run.scripts[rank].error
        assert isinstance(error, StoppedError) and "worker 2" in str(error), run.say(f"worker {rank}: {error!r}")
    assert run.sim.now < 10, run.say(f"at {run.sim.now:.1f} s only")


# ---- on_worker_loss=drop, joining and leaving -----------------------------------------------------------------------


@dataclass
class Written:
    """Replays the log of a run: what was pushed by (worker, number) on each slice, combined as the commits say."""

    problem: Problem
    pushed: dict[tuple[int, int, int], tuple[float, Array]] = field(default_factory=dict)  # (worker, slice, number)
    started: dict[int, int] = field(default_factory=dict)  # rank -> clock
    due: dict[tuple[int, int], Callable[[], object]] = field(default_factory=dict)  # (rank, clock) -> what to do there

    def at_clock(self, rank: int, clock: int, do: Callable[[], object]) -> None:
        """Does it once when this worker begins this clock."""
        self.due[rank, clock] = do

    def train(self, client: Client) -> int:
        """The problem's script, which notes each slice of each push under the number that it got."""
        problem, rank = self.problem, client.rank
        rng = np.random.default_rng([problem.seed, rank])
        self.started[rank] = client.clock
        client.register(problem.initial())
        for clock in range(client.clock, problem.clocks):
            self.due.pop((rank, clock), lambda: None)()
            values = client.pull()
            client.spend(float(rng.random()) * PACE)
            for call, push in enumerate(problem.pushes(rank, clock)):
                grads = problem.gradients(rank, clock, call, push, values)
                client.push(grads, weight=push.weight)
                self.note(client, push, grads)
            client.tick()
        return client.clock

    def note(self, client: Client, push: Push, grads: Values) -> None:
        space, seq_S = client._worker.keyspace, client._worker.session.seq_S
        for slice_id in space.slice_ids(push.names):
            parts = [
                grads[space.parameters[piece.parameter].name].reshape(-1)[piece.start : piece.stop]
                for piece in space.slices[slice_id].pieces
            ]
            self.pushed[client.rank, slice_id, int(seq_S[slice_id])] = (push.weight, np.concatenate(parts))

    def check(self, run: Run, spec: str) -> None:
        """The servers hold what their logs say, to the bit."""
        final, initial = run.final(), self.problem.initial()
        gathers = isinstance(run.sim.config.model().commit(1), Gather)
        rate = run.sim.config.rule().lr  # a power of two: the quotient below is exact
        for slice_id, item in enumerate(run.sim.controller.core.batches.keyspace.slices):
            names = [run.sim.controller.core.batches.keyspace.parameters[piece.parameter].name for piece in item.pieces]
            cuts = list(zip(names, item.pieces, strict=True))
            w = np.concatenate([initial[name].reshape(-1)[piece.start : piece.stop] for name, piece in cuts])
            got = np.concatenate([final[name].reshape(-1)[piece.start : piece.stop] for name, piece in cuts])
            step = make_step(spec, w)
            for commit in run.commits(slice_id):
                given = [self.pushed[push.worker, slice_id, push.seq] for push in commit.contributions]
                if given:  # one arrival's mean is itself
                    grad = combine(given) if gathers else given[0][1]
                    w = step(w, grad, commit.lr / rate)
            same_bytes(run, {"w": got}, {"w": w}, f"slice {slice_id} against its log")


@pytest.mark.parametrize("seed", range(10))
def test_dropped_workers_leave_the_others_going(seed: int) -> None:
    """Each slice commits with those that delivered, says so in its log, and the values are what the log says."""
    workers, clocks, dead = 4, 10, seed % 4
    written = Written(Problem(seed, workers, clocks, repeated=seed % 2 == 0, groups=GROUPS))
    run = simulate(
        written.train, seed=seed, workers=workers, optimizer="momentum:lr=0.125,decay=0.8",
        plan=lambda sim: written.at_clock(dead, 3 + seed % 4, lambda: sim.kill_worker(dead)),
    )  # fmt: skip
    written.check(run, "momentum:lr=0.125,decay=0.8")
    others = {rank for rank in range(workers) if rank != dead}
    assert {run.results[rank] for rank in others} == {clocks}, run.say(f"clocks at the end: {run.results}")
    for slice_id in range(run.slices):
        sets = [{push.worker for push in commit.contributions} for commit in run.commits(slice_id)]
        assert len(sets) == clocks and all(others <= ranks for ranks in sets), run.say(f"slice {slice_id}: {sets}")
        assert sets[0] == {*others, dead} and sets[-1] == others, run.say(f"slice {slice_id}: contributors {sets}")
    lost = [any(isinstance(r, Left) and r.worker == dead for r in log) for log in run.log]
    assert all(lost), run.say("the loss is not in every log")


@pytest.mark.parametrize("model", ["bsp", "async", "ssp:staleness=1", "quorum:n=2"])
@pytest.mark.parametrize("seed", range(4))
def test_a_dropped_worker_may_come_back_as_a_joiner(seed: int, model: str) -> None:
    clocks, dead = 12, seed % 3
    written = Written(Problem(seed, 3, clocks, groups=(BUNDLE, DOUBLE)))

    def plan(sim: Simulator) -> None:
        written.at_clock(dead, 3, lambda: restart(sim, dead, written.train, at=0.0, after=0.05))

    run = simulate(written.train, seed=seed, consistency=model, optimizer="sgd:lr=0.125", plan=plan)
    written.check(run, "sgd:lr=0.125")
    assert run.results == [clocks] * 3, run.say(f"clocks {run.results}")
    for log in run.log:
        again = [r.incarnation for r in log if isinstance(r, Joined) and r.worker == dead]
        assert again == [1, 2], run.say(f"joined as {again}")


@pytest.mark.parametrize("model", ["bsp", "async", "ssp:staleness=1", "quorum:n=2"])
@pytest.mark.parametrize("seed", range(4))
def test_a_late_joiner_starts_at_the_others_clock_and_is_counted(seed: int, model: str) -> None:
    """Two workers more than the run began with; what they push is in, and clocks never go back (the helper looks)."""
    clocks = 12
    written = Written(Problem(seed, 2, clocks, groups=(BUNDLE, DOUBLE)))

    def plan(sim: Simulator) -> None:
        written.at_clock(0, 3, lambda: sim.run_worker(2, written.train))
        written.at_clock(1, 5, lambda: sim.run_worker(3, written.train))

    run = simulate(
        written.train, seed=seed, workers=2, consistency=model, optimizer="momentum:lr=0.125,decay=0.8", plan=plan
    )
    written.check(run, "momentum:lr=0.125,decay=0.8")
    starts = written.started
    assert starts[0] == starts[1] == 0, run.say(f"clocks at the start: {starts}")
    assert run.results == [clocks] * 4, run.say(f"clocks at the end: {run.results}")
    if model == "bsp":
        assert starts[2] >= 2 and starts[3] >= 4, run.say(f"clocks at the start: {starts}")
        for slice_id in range(run.slices):
            sizes = [len({push.worker for push in commit.contributions}) for commit in run.commits(slice_id)]
            assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (2, 4), run.say(f"contributors: {sizes}")


@pytest.mark.parametrize("optimizer", ["sgd:lr=0.1", "adam:lr=0.03"])
@pytest.mark.parametrize("seed", range(8))
def test_a_worker_that_leaves_early_counts_up_to_its_last_clock(seed: int, optimizer: str) -> None:
    """Bit for bit: its finished clocks are in, nobody waits for it any more; even rank 0, even before it began."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, 9, 4)

    @dataclass
    class Leaving(Problem):
        def pushes(self, rank: int, clock: int) -> list[Push]:
            return super().pushes(rank, clock) if clock < ends[rank] else []

    problem = Leaving(seed, 4, clocks=int(ends.max()), groups=GROUPS)

    def train(client: Client) -> Values | None:
        client.register(problem.initial())
        for clock in range(ends[client.rank]):
            values = client.pull()
            client.spend(float(rng.random()) * PACE)
            for call, push in enumerate(problem.pushes(client.rank, clock)):
                client.push(problem.gradients(client.rank, clock, call, push, values), weight=push.weight)
            client.tick()
        if ends[client.rank] < 8 and seed % 2:
            client.pull(["w"])
            client.push({name: np.full(shape, 1e3, np.float32) for name, shape in BUNDLE.items()})
        return None  # a clock that was begun and not finished is dropped whole

    run = simulate(train, seed=seed, workers=4, optimizer=optimizer)
    same_bytes(run, run.final(), problem.one_process(optimizer)[-1], "servers")


@pytest.mark.parametrize("model", ["bsp", "ssp:staleness=1", "quorum:n=3", "async"])
def test_a_lease_finds_a_dead_worker_that_nobody_reported(model: str) -> None:
    """Its process is gone without a word; the others go on when its lease is over."""
    written = Written(Problem(2, 3, clocks=10, groups=(BUNDLE,)))
    run = simulate(
        written.train, seed=2, consistency=model, lease_s=2.0, optimizer="sgd:lr=0.125",
        plan=lambda sim: written.at_clock(1, 4, lambda: sim.kill_worker(1, notice=False)),
    )  # fmt: skip
    written.check(run, "sgd:lr=0.125")
    assert (run.results[0], run.results[2]) == (10, 10), run.say(f"clocks {run.results}")


# ---- parameters that come later -------------------------------------------------------------------------------------


@dataclass
class Growing:
    """One batch from the start, one from clock 3 on, one from clock 5 on; all that is known is pushed at each clock."""

    problem: Problem
    begins = (0, 3, 5)

    def known(self, clock: int) -> list[str]:
        groups = [group for group, begin in zip(self.problem.groups, self.begins, strict=True) if begin <= clock]
        return [name for group in groups for name in group]

    def train(self, client: Client) -> Values:
        initial = self.problem.initial()
        for group, begin in zip(self.problem.groups, self.begins, strict=True):
            if begin < max(client.clock, 1):  # also what an earlier incarnation registered
                client.register({name: initial[name] for name in group})
        rng = np.random.default_rng([self.problem.seed, client.rank])
        for clock in range(client.clock, self.problem.clocks):
            for group, begin in zip(self.problem.groups, self.begins, strict=True):
                if begin == clock and next(iter(group)) not in client._worker.keyspace.index_of:
                    client.register({name: initial[name] for name in group})
            values = client.pull()
            client.spend(float(rng.random()) * PACE)
            push = Push(tuple(self.known(clock)), client.rank + 0.5)
            client.push(self.problem.gradients(client.rank, clock, 0, push, values), weight=push.weight)
            client.tick()
        return client.pull()

    def one_process(self, spec: str) -> Values:
        values = self.problem.initial()
        steps = {name: make_step(spec, value) for name, value in values.items()}
        for clock in range(self.problem.clocks):
            for name in self.known(clock):
                grads = [
                    (rank + 0.5, self.problem.gradient(rank, clock, 0, name, values[name]))
                    for rank in range(self.problem.workers)
                ]
                values = {**values, name: steps[name](values[name], combine(grads), 1.0)}
        return values


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_parameters_registered_in_mid_run_are_trained_from_there_on(seed: int, dies: bool) -> None:
    growing = Growing(Problem(seed, 3, clocks=9, groups=GROUPS))

    def plan(sim: Simulator) -> None:
        if dies:
            restart(sim, seed % 3, growing.train, at=0.1 + 0.03 * seed, after=0.02)

    run = simulate(
        growing.train, seed=seed, servers=1 + seed % 3, optimizer="adam:lr=0.03", on_worker_loss="wait", plan=plan
    )
    expected = growing.one_process("adam:lr=0.03")
    same_bytes(run, run.final(), expected, "servers")
    for rank, got in enumerate(run.results):
        same_bytes(run, got, expected, f"worker {rank}")


# With quorum:n=2 two workers may run ahead and wait for rank 0 to register, which waits for one of them to commit with.
@pytest.mark.parametrize("model", [model.replace("n=2", "n=1") for model in MODELS])
@pytest.mark.parametrize("seed", range(2))
def test_parameters_may_come_later_under_every_model(seed: int, model: str) -> None:
    growing = Growing(Problem(seed, 3, clocks=9, groups=GROUPS))
    run = simulate(growing.train, seed=seed, consistency=model, optimizer="momentum:lr=0.05,decay=0.5", faults=ROUGH)
    initial = growing.problem.initial()
    for name, value in run.final().items():
        assert np.isfinite(value).all() and (value != initial[name]).all(), run.say(f"{name} was not trained")


# ---- waiting for one another ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [model.replace("n=2", "n=3") for model in MODELS])
@pytest.mark.parametrize("seed", range(2))
def test_after_a_barrier_everybodys_finished_pushes_are_in(seed: int, model: str) -> None:
    """Nobody passes before the slowest arrives; models that apply on arrival have applied all by then."""
    times: list[list[float]] = []

    def train(client: Client) -> list[Array]:
        client.register({"w": np.zeros((3, 6), np.float32)})
        seen = []
        for clock in range(6):
            client.pull()
            client.spend(0.1 * ((client.rank + clock) % 3))
            mark = np.zeros((3, 6), np.float32)
            mark[client.rank, clock] = 1
            client.push({"w": mark})
            client.tick()
            arrived = client._worker.port.now()
            client.barrier()
            times.append([clock, arrived, client._worker.port.now()])
            seen.append(client.pull()["w"])
        return seen

    run = simulate(train, seed=seed, consistency=model, optimizer="add")
    for clock in range(6):
        mine = [(arrived, left) for at, arrived, left in times if at == clock]
        assert min(left for _, left in mine) >= max(arrived for arrived, _ in mine), run.say(f"barrier {clock}: {mine}")
        if model in ("bsp", "ssp:staleness=0", "async"):
            for rank, seen in enumerate(run.results):
                assert (seen[clock][:, : clock + 1] == 1).all(), run.say(f"worker {rank} after barrier {clock}: {seen}")


@pytest.mark.parametrize(("share", "last"), [(0.75, 3), (0.5, 2), (1.0, 4)])
def test_a_data_epoch_ends_when_its_share_of_the_workers_is_through(share: float, last: int) -> None:
    """Worker k needs k + 1 seconds for an epoch; who is cut short counts what it leaves out."""
    batches = 10

    def train(client: Client) -> list[tuple[float, int]]:
        client.register({"w": np.zeros(3, np.float32)})
        ends = []
        for epoch in range(3):
            done = 0
            while done < batches and not client.epoch_ended(epoch):
                client.pull()
                client.spend((client.rank + 1) / batches)
                client.push({"w": np.ones(3, np.float32)})
                client.tick()
                done += 1
            if client.epoch_ended(epoch):
                client.epoch_skipped(epoch, batches - done)
            else:
                client.epoch_done(epoch)
            while not client.epoch_ended(epoch):
                client.spend(0.01)
            ends.append((client._worker.port.now(), done))
        return ends

    run = simulate(train, seed=1, workers=4, consistency="async", epoch_share=share, faults=LinkFaults())
    for epoch in range(3):
        for rank, ends in enumerate(run.results):
            at, done = ends[epoch]
            assert abs(at - last * (epoch + 1)) < 0.5 * (epoch + 1), run.say(
                f"worker {rank}, epoch {epoch}: at {at:.2f} s"
            )
            assert (done == batches) == (rank < last), run.say(f"worker {rank}, epoch {epoch}: {done} batches")
    left_out = [3 * batches - sum(done for _, done in ends) for ends in run.results]
    assert sum(run.sim.controller.core.skipped.values()) == sum(left_out), run.say(f"left out {left_out}")


def test_a_barrier_names_nobodys_death_as_progress() -> None:
    """A dropped worker is not waited for at a barrier."""

    def train(client: Client) -> float:
        client.register({"w": np.zeros(3, np.float32)})
        client.pull()
        client.spend(100.0 if client.rank == 1 else 0.1)
        client.barrier()
        return client._worker.port.now()

    run = simulate(train, seed=1, plan=lambda sim: sim.at(2.0, lambda: sim.kill_worker(1)))
    assert run.sim.scripts[worker_peer(1)].is_killed
    assert 2.0 < run.results[0] < 3.0, run.say(f"barriers open at {run.results}")
