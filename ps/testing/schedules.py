"""Random fault schedules for authors of consistency models: `check_schedule(draw_schedule(seed, spec), spec)`.

A schedule is plain data, drawn from a seed: who takes part, and a list of faults. It runs in virtual time on the
simulator, under the eyes of a `Witness`. A schedule that breaks a promise is shortened, fault by fault, while it still
breaks the same one; the error carries the seed and the short schedule, ready to be pasted into a test.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from ps.config import RunConfig
from ps.factors import Factors
from ps.keyspace import Options
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.sim.scripts import Script
from ps.testing.aftermath import check_aftermath
from ps.testing.faults import (
    Crash,
    Cut,
    Fault,
    Late,
    Leaves,
    Lossy,
    Reordering,
    Repeating,
    Schedule,
    SlowApply,
    SlowWorker,
    draw_schedule,
)
from ps.testing.lives import Life
from ps.testing.witness import Batch, Broken, Witness
from ps.transport.base import Message
from ps.types import Array, PeerId, worker_peer
from ps.worker.checks import Gradients
from ps.worker.client import Client

__all__ = [
    "Crash", "Cut", "Fault", "Late", "Leaves", "Lossy", "Reordering", "Repeating", "SlowApply", "SlowWorker",
    "Report", "Schedule", "check_schedule", "check_schedules", "draw_schedule", "run_schedule", "shorten",
]  # fmt: skip

TIMEOUT_S = 200.0  # virtual; nothing in a schedule takes a tenth of it
EVENTS_MAX = 100_000  # a run has some hundreds
ENCODED_ELEMENTS = 45  # of the slices whose frames a codec can make smaller
MATRIX = (6, 8)  # the shape of the parameter that is pushed as factors
SHORTENINGS_MAX = 300  # runs that `shorten` may spend


# ---- running ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What a schedule did, and what it broke."""

    schedule: Schedule
    model: str
    broken: tuple[Broken, ...]
    counts: dict[str, int]  # pushes, commits with a step, late verdicts, reads; each of one slice
    seconds: float  # virtual

    @property
    def check(self) -> str | None:
        """The check that failed first."""
        return self.broken[0].check if self.broken else None


class WatchedSimulator(Simulator):
    """Remembers the messages whose buffers somebody waits to get back."""

    lent: list[Message]

    def send(self, sender: PeerId, to: PeerId, message: Message) -> None:
        if message.on_release is not None:
            self.__dict__.setdefault("lent", []).append(message)
        super().send(sender, to, message)


def parameters(grow: bool, elements: int, factors: bool = False) -> list[Batch]:
    """What the scripts register: two dtypes, an integer buffer, and options that keep each in a slice of its own."""
    first: Batch = {
        "a": (np.arange(48, dtype=np.float32).reshape(MATRIX), Options())
        if factors
        else (np.arange(elements, dtype=np.float32), Options()),
        "b": (np.ones((2, 2), np.float64), Options(lr_scale=2.0)),
        "c": (np.zeros(1, np.float32), Options(lr_scale=0.5)),
        "n": (np.array([7, 8]), Options()),
    }
    return [first, {"d": (np.full(elements - 1, 5, np.float32), Options())}] if grow else [first]


class Run:
    """One schedule on one simulator: starts, kills and restarts scripts when their time comes."""

    def __init__(self, schedule: Schedule, model: str) -> None:
        self.schedule, self.model = schedule, model
        same = ("servers", "workers", "optimizer", "on_worker_loss", "lease_s", "seed")
        options = {name: getattr(schedule, name) for name in same}
        options |= dict(push_compression=schedule.push, pull_compression=schedule.pull)
        options |= dict(consistency=model, resend_s=0.05, timeout_s=TIMEOUT_S, restart_s=TIMEOUT_S)
        config = RunConfig.check(options)
        encoded = config.codecs().of_anything
        elements = ENCODED_ELEMENTS if encoded else 3
        self.batches = parameters(schedule.grow_at is not None, elements, schedule.factors)
        self.witness = Witness(config, self.batches)
        shares = {name: schedule.one(kind, kind(0.0)).share for name, kind in LINKS.items()}
        apply_s = schedule.one(SlowApply, SlowApply(0.0)).seconds
        links, see = LinkFaults(**shares), self.witness.on_record
        self.sim = WatchedSimulator(config, links, seed=schedule.seed, apply_s=apply_s, followers=True, watch=see)
        self.lives: dict[Script, Life] = {}
        self.scripts: list[Script] = []
        self.dead: set[int] = set()  # ranks that wait for their restart
        self.pending = 0  # starts that are still to come
        self.deltas = self.witness.model.cadence.carries == "delta"  # from what every pull of a round brings

    def run(self) -> None:
        """To the end, and beyond it until all messages have arrived."""
        for rank in range(self.schedule.workers):
            if self.schedule.of_rank(Late, rank) is None:
                self.start(rank)
        for fault in self.schedule.faults:
            self._plan(fault)
        try:
            self.sim.run(self._is_over, EVENTS_MAX)
        except AssertionError as error:
            self.witness.expect(False, "liveness", error)
        except Exception as error:  # a core that raises has lost its server
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.witness.expect(False, "liveness", f"{where.filename}:{where.lineno} raised {error!r}")
        else:
            check_aftermath(self.witness, self.sim, self.scripts, self.lives)
        finally:
            for script in self.scripts:
                if not script.is_over and script._thread.is_alive():
                    script.is_killed = True
                    script.resume()

    def _is_over(self) -> bool:
        """Nothing is to come: no start, no message, no lease that has to run out."""
        sim = self.sim
        if self.pending or not sim.is_quiet or (sim._heap and sim._heap[0][0] <= sim.now):
            return False
        controller = sim.controller.core
        counts = self.schedule.lease_s < float("inf") and controller.stopped is None
        return not counts or all(member.state != "running" for member in controller.members.values())

    def start(self, rank: int) -> None:
        """Starts the worker of this rank."""
        self.scripts.append(self.sim.run_worker(rank, lambda client: self._train(client)))

    def _plan(self, fault: Fault) -> None:
        sim = self.sim
        match fault:
            case Crash(rank, at):
                self.pending += fault.back_s is not None
                sim.at(at, lambda: self._crash(fault))
            case Late(rank, at):
                self.pending += 1
                sim.at(at, lambda: self._start_pending(rank))
            case Cut(peer, at, seconds):
                sim.at(at, lambda: sim.links.cut(peer))
                sim.at(at + seconds, lambda: sim.links.mend(peer))

    def _start_pending(self, rank: int) -> None:
        self.pending -= 1
        self.dead.discard(rank)
        self.start(rank)

    def _crash(self, crash: Crash) -> None:
        script = self.sim.scripts.get(worker_peer(crash.rank))
        back = crash.back_s is not None
        if script is None or script.is_over or script.is_killed or crash.rank in self.dead:
            self.pending -= back
            return
        if not self._may_die(crash):
            self.sim.at(self.sim.now + 0.005, lambda: self._crash(crash))
            return
        self.sim.kill_worker(crash.rank, crash.notice)
        if crash.back_s is not None:
            self.dead.add(crash.rank)
            self.sim.at(self.sim.now + crash.back_s, lambda: self._start_pending(crash.rank))

    def _may_die(self, crash: Crash) -> bool:
        """Not before it has joined somewhere, and not with the only initial values: see faults.py.

        An answer to Enroll that comes late would find the next incarnation, which takes it for its own.
        """
        starts = sum(script.address == worker_peer(crash.rank) for script in self.scripts)
        if all(seen.incarnation.get(crash.rank) != starts for seen in self.witness.shards):
            return False
        return crash.back_s is not None or len(self.witness.history) == len(self.witness.initial)

    # ---- the script -------------------------------------------------------------------------------------------------

    def _train(self, client: Client) -> None:
        """Pulls, computes, pushes and ticks, now and then leaving something out."""
        schedule, rank = self.schedule, client.rank
        life = Life(self.witness, client)
        self.lives[self.sim.scripts[worker_peer(rank)]] = life
        slow, leaves = schedule.of_rank(SlowWorker, rank), schedule.of_rank(Leaves, rank)
        clocks = schedule.clocks if leaves is None else min(schedule.clocks, leaves.clocks)
        batches, names, futures = list(self.batches), list[str](), []
        while not names or client.clock < clocks:
            fresh = not names
            dice = Random(f"{schedule.seed} {rank} {client.clock}")
            while batches and (not names or client.clock >= (schedule.grow_at or 0)):
                batch, fresh = batches.pop(0), True
                client.register({n: v for n, (v, _) in batch.items()}, {n: o for n, (_, o) in batch.items()})
                names += batch
            if client.clock >= clocks:
                break
            if fresh or self.deltas or dice.random() < 0.85:
                life.pull(names if fresh or self.deltas or self.witness.by_version else _some(dice, names))
            if slow is not None:
                client.spend(slow.seconds * (0.5 + dice.random()))
            for _ in range(dice.choice([0, 1, 1, 1, 2])):
                some = _some(dice, [name for name in names if name != "n"])
                futures.append(life.push(self._grads(dice, some), 2.0 ** (rank % 3)))
            life.tick()
        if Random(f"{schedule.seed} {rank}").random() < 0.5:
            for future in futures if not self.witness.by_version else ():  # who is late must go on, not wait
                future.result()
            life.pull(names)

    def _grads(self, dice: Random, names: list[str]) -> Gradients:
        """Small integers above 0: every push shows in the sum, but for factors without rows."""
        arrays = {name: values for batch in self.batches for name, (values, _) in batch.items()}
        grads: dict[str, Array | Factors] = {}
        for name in names:
            like = arrays[name]
            if self.schedule.factors and name == "a" and dice.random() < 0.9:
                k = dice.choice([0, 1, 1, 2, 3])
                u, v = ([[dice.randint(1, 9) for _ in range(n)] for _ in range(k)] for n in MATRIX)
                grads[name] = Factors(np.reshape(u, (k, MATRIX[0])), np.reshape(v, (k, MATRIX[1])))
                continue
            grads[name] = np.array([dice.randint(1, 99) for _ in range(like.size)], like.dtype).reshape(like.shape)
        return grads


def _some(dice: Random, names: list[str]) -> list[str]:
    """Mostly all names, else part of them."""
    return names if dice.random() < 0.7 else sorted(dice.sample(names, dice.randint(1, len(names))))


LINKS: dict[str, type[Any]] = {"drop": Lossy, "repeat": Repeating, "reorder": Reordering}


def run_schedule(schedule: Schedule, model: str) -> Report:
    """Runs one schedule under the model that `model` spells."""
    run = Run(schedule, model)
    run.run()
    witness = run.witness
    return Report(schedule, model, tuple(witness.broken), dict(witness.counts), run.sim.now)


def check_schedule(schedule: Schedule, model: str) -> Report:
    """Raises AssertionError, with the seed, what broke and a shortened schedule, when a promise is broken."""
    report = run_schedule(schedule, model)
    if not report.broken:
        return report
    short = run_schedule(shorten(schedule, lambda one: run_schedule(one, model).check == report.check), model)
    lines = [f"{model}: seed {schedule.seed}: {report.check}: {report.broken[0].text}", f"in full: {schedule}"]
    lines += [f"shortened: {short.schedule}", *(f"  {check}: {text}" for check, text in short.broken[:6])]
    raise AssertionError("\n".join(lines))


def check_schedules(model: str, seeds: Iterable[int], **drawn: Any) -> None:
    """`check_schedule` of each seed. drawn: keywords of `draw_schedule`."""
    for seed in seeds:
        check_schedule(draw_schedule(seed, model, **drawn), model)


# ---- shortening ---------------------------------------------------------------------------------------------------


def shorten(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """A schedule with as few faults, clocks, servers and workers as this walk finds, for which `fails` still holds."""
    left = SHORTENINGS_MAX
    found = True
    while found:
        found = False
        for smaller in _smaller(schedule):
            left -= 1
            if left < 0:
                return schedule
            if fails(smaller):
                schedule, found = smaller, True
                break
    return schedule


def _smaller(schedule: Schedule) -> Iterator[Schedule]:
    faults = schedule.faults
    for place in range(len(faults)):
        yield replace(schedule, faults=(*faults[:place], *faults[place + 1 :]))
    for clocks in {schedule.clocks // 2, schedule.clocks - 1} - {0}:
        yield replace(schedule, clocks=clocks)
    if schedule.grow_at is not None:
        yield replace(schedule, grow_at=None)
    if schedule.factors:
        yield replace(schedule, factors=False)
    if schedule.servers > 1:
        yield replace(schedule, servers=schedule.servers - 1)
    if schedule.workers > 1 and not any(getattr(fault, "rank", 0) >= schedule.workers - 1 for fault in faults):
        yield replace(schedule, workers=schedule.workers - 1)
