"""`psctl profile`: three short runs on this machine, and what a step costs by what they say of themselves.

All under `bsp`, with one server, traced. Steps with nothing in them, by one worker; those of the script, by one worker;
and by two, of which only the step is kept, as a check. A step is what the worker computes, what it encodes, and the
rest: until pushes have gone and values are there. What the rest consists of follows from the simulator, which knows how
many messages a step takes, and from the processor time of the server.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ps.config import RunConfig
from ps.control.service import ControlServer
from ps.errors import ConfigError
from ps.keyspace import Keyspace, Parameter
from ps.launch.options import RunOptions, check_script, look_beside
from ps.launch.run import run_cluster
from ps.metrics import Snapshot, Span, series
from ps.predict.profile import Check, Codec, Cost, Costs, Measured, Tensor
from ps.sim.network import Network
from ps.sim.scale import Profile, simulate

RUN_S = 4.0  # of each run, from the end of its first clock; more where steps are so long that too few have ended
LONGEST_S = 20.0
BEGIN_S = 30.0  # from the start of processes to the end of the first clock
WARM_UP = 3  # steps that are not counted
STEPS_MIN = 5  # that are
CLOCKS = 5  # simulated
HALVINGS = 30  # of an interval: to 1e-9 of it
BARE = str(Path(__file__).with_name("bare.py"))


class Watching(ControlServer):
    """A controller that keeps what peers have told of themselves, and ends the run in time."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config, hold=True)
        self.told: dict[str, list[dict[str, Any]]] = {}  # peer -> what it has measured, each time that it told
        self._made_at = time.monotonic()

    def status(self) -> dict[str, Any]:
        """As ever."""
        found = super().status()
        for peer, plain in found["metrics"].items():
            told = self.told.setdefault(peer, [])
            if not told or told[-1] != plain:
                told.append(plain)
        if found["stopped"] is None and (why := self._why_over(found)) is not None:
            self.stop(why, failed=found["began_at"] is None)
        return found

    def _why_over(self, found: Mapping[str, Any]) -> str | None:
        """Why the run has gone on for long enough; None: it has not."""
        now, began = time.monotonic(), found["began_at"]
        if began is None:
            return f"no step ended in {BEGIN_S:g} s" if now > self._made_at + BEGIN_S else None
        enough = min(worker["clock"] for worker in found["workers"]) > WARM_UP + STEPS_MIN
        return "it has been measured" if now > began + (RUN_S if enough else LONGEST_S) else None


class Step(NamedTuple):
    """What a worker did in one step: seconds of all of it, of computing, of encoding; bytes."""

    seconds: float
    compute_s: float
    encode_s: float
    pushed: int
    pulled: int

    @property
    def rest_s(self) -> float:
        """Until pushes have gone and values are there, without encoding."""
        return self.seconds - self.compute_s - self.encode_s


@dataclass(frozen=True)
class Sample:
    """One run. steps: of all workers; server_s: processor time of the server per clock, each time that it told.

    optimizer: the one that the script has brought, if it has; push_share, pull_share: as in a profile.
    """

    parameters: list[Parameter]
    steps: Sequence[Step]
    server_s: Sequence[float]
    push_share: float = 1.0
    pull_share: float = 1.0
    optimizer: str = ""

    @property
    def nbytes(self) -> int:
        """Of all values."""
        keyspace = Keyspace()
        keyspace.extend(list(self.parameters))
        return sum(one.nbytes for one in keyspace.slices)

    @property
    def rest_S(self) -> list[float]:
        """Of each step."""
        return [step.rest_s for step in self.steps]

    def profile(self, compute_s: float = 0.0) -> Profile:
        """Of the simulator: every step computes so long."""
        return Profile(
            {one.name: one.shape for one in self.parameters},
            lambda rank, random: compute_s,
            self.push_share,
            self.pull_share,
            {one.name: one.dtype for one in self.parameters},
        )

    def predicted_s(self, network: Network, compute_s: float = 0.0, workers: int = 1) -> float:
        """Seconds of a step by the simulator."""
        config = RunConfig(servers=1, workers=workers)
        return simulate(config, self.profile(compute_s), network, CLOCKS).clock_s


def measure(
    script: str, args: Sequence[str], options: Mapping[str, Any], bare: Sample | None = None, with_check: bool = True
) -> Measured:
    """A profile of the script, by runs of some seconds each. options: of `psctl run`, without servers and workers.

    bare: steps with nothing in them, from an earlier call of `observe_bare`. with_check: whether two workers run, too.

    Raises: ConfigError naming what is wrong, or when a run fails or ends too early.
    """
    check_script("SCRIPT", script)
    look_beside(script)
    config = RunConfig.check({**options, "consistency": "bsp"})
    one = observe(script, args, options, 1)
    bare = observe_bare() if bare is None else bare
    costs = fitted(bare, one)
    check = None
    if with_check:
        two = observe(script, args, options, 2)
        predicted_s = one.predicted_s(costs.on(Network()), median(step.compute_s for step in two.steps), workers=2)
        check = Check(measured_s=median(step.seconds for step in two.steps), predicted_s=predicted_s)
    return Measured(
        script=" ".join([script, *args]),
        codec=Codec.of(config),
        parameters=[Tensor(name=each.name, shape=list(each.shape), dtype=each.dtype) for each in one.parameters],
        compute_s=sorted(step.compute_s for step in one.steps),
        optimizer=one.optimizer,
        push_share=one.push_share,
        pull_share=one.pull_share,
        costs=costs,
        check=check,
    )


def fitted(bare: Sample, one: Sample) -> Costs:
    """The costs with which the simulator takes as long for these steps as they took.

    A message costs what steps with nothing in them cost, at the server its processor time, at most half; what bytes
    cost the server is the processor time that is left; what remains of the step is that of taking in values.
    """
    messages = bare.predicted_s(Network(server_message_s=1.0))  # that the server takes in a step
    bare_s = median(bare.rest_S)
    server = Cost.of([min(seconds, bare_s / 2) / messages for seconds in bare.server_s])
    encode = Cost.of([step.encode_s / (one.nbytes * one.push_share) for step in one.steps])
    messages_s = one.predicted_s(Network(server_message_s=server.median))
    apply = Cost.of([(min(s, median(one.rest_S)) - messages_s) / one.nbytes for s in one.server_s])
    known = Costs(server_message_s=server, encode_s_per_byte=encode, apply_s_per_byte=apply)
    known = known.model_copy(update={"worker_message_s": _rest_of(bare, known, "worker_message_s")})
    return known.model_copy(update={"decode_s_per_byte": _rest_of(one, known, "decode_s_per_byte")})


def _rest_of(sample: Sample, known: Costs, name: str) -> Cost:
    """The cost of this name with which steps take as long as they took, the others being known: by bisection, as what
    overlaps depends on it. A step grows with it by itself or more."""
    encode_s, network = median(step.encode_s for step in sample.steps), known.on(Network())

    def solved(rest_s: float) -> float:
        low, high = 0.0, rest_s + encode_s
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            tried: dict[str, Any] = {name: middle}
            step_s = sample.predicted_s(replace(network, **tried))
            low, high = (middle, high) if step_s < rest_s + encode_s else (low, middle)
        return high

    low, mid, high = np.percentile(sample.rest_S, (5, 50, 95)).tolist()
    return Cost(low=solved(low), median=solved(mid), high=solved(high))


def observe_bare() -> Sample:
    """Steps with nothing in them: they are the same for every script."""
    return observe(BARE, (), {}, 1)


# ---- one run --------------------------------------------------------------------------------------------------------


def observe(script: str, args: Sequence[str], options: Mapping[str, Any], workers: int) -> Sample:
    """Runs the script for some seconds with one server. Raises: ConfigError."""
    made: list[Watching] = []

    def control(config: RunConfig) -> Watching:
        made.append(Watching(config))
        return made[-1]

    config = {**options, "consistency": "bsp", "servers": 1, "workers": workers, "trace": True}
    with tempfile.TemporaryDirectory() as folder:
        asked = RunOptions(script, tuple(args), config, log_dir=folder, log_to="jsonl", quiet=True)
        code = run_cluster(asked, make_control=control)
    if code:
        raise ConfigError(f"{script}: expected a run of some steps, got one that ended with exit code {code}")
    told, server = made[0].told, [Snapshot.from_dict(plain) for plain in made[0].told.get("server:0", [])]
    spans = [Snapshot.from_dict(every[-1]).spans for peer, every in told.items() if peer.startswith("worker:")]
    steps = [step for own in spans for step in list(steps_of(own))[WARM_UP:]]
    if len(steps) < STEPS_MIN:
        raise ConfigError(f"{script}: expected {WARM_UP + STEPS_MIN} steps or more to measure, got {len(steps)}")
    parameters = made[0].parameters()
    server_s = list(server_seconds(server))
    if not server_s:
        raise ConfigError(f"{script}: expected a run of {RUN_S:g} s to measure, got a shorter one; give it more to do")
    sample = Sample(parameters, steps, server_s)
    shares = shares_of(script, steps, sample.nbytes)
    return replace(sample, push_share=shares[0], pull_share=shares[1], optimizer=made[0].script_optimizer())


def shares_of(script: str, steps: Sequence[Step], nbytes: int) -> tuple[float, float]:
    """Of so many bytes of values those that are pushed and pulled in a step. Raises: ConfigError when none are."""
    pushed, pulled = sum(step.pushed for step in steps), sum(step.pulled for step in steps)
    for way, total in (("push", pushed), ("pull", pulled)):
        if not total:
            raise ConfigError(f"{script}: expected steps that push and pull, got none that {way}")
    return pushed / nbytes / len(steps), pulled / nbytes / len(steps)


def steps_of(spans: Sequence[Span]) -> Iterator[Step]:
    """Each step of one worker. What is asked for in a step is its own, also where it comes later."""
    inside = [span for span in spans if span.name in ("blocked", "push", "encode", "pull")]
    for step in (span for span in spans if span.name == "step"):
        mine = [span for span in inside if step.start <= span.start < step.end]
        if mine and min(span.start for span in inside) < step.start:  # else its first spans are gone already
            waits = [(span.start, span.end) for span in mine if span.name in ("blocked", "push")]
            encode_s = sum(span.end - span.start for span in mine if span.name == "encode")
            seconds, both = step.end - step.start, (_bytes(mine, "encode"), _bytes(mine, "pull"))
            yield Step(seconds, seconds - _covered(waits), encode_s, *both)


def _bytes(spans: Sequence[Span], name: str) -> int:
    """Of all spans of this name."""
    return sum(int(dict(span.labels)["bytes"]) for span in spans if span.name == name)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds within any of these."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total


def server_seconds(told: Sequence[Snapshot]) -> Iterator[float]:
    """Processor seconds per clock, between two times that a server has told of itself: in each it steps every slice."""
    cpu, slices = series("cpu"), series("slices")
    for before, after in pairwise(told[1:]):
        if applies := after.total("applies") - before.total("applies"):
            yield (after.gauges[cpu] - before.gauges[cpu]) / (applies / after.gauges[slices])
