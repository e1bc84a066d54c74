"""A training problem of many kinds of parameters, as a script for `ps` and as one process in plain NumPy.

Gradients are those of a quadratic, a * (w - target), one target per (worker, clock, push, parameter): they depend on
the values that were read, so one stale or torn read shows in the last bit.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ps.keyspace import Options
from ps.optim import optimizer, schedule
from ps.optim.base import Step
from ps.types import Array, Float
from ps.worker.client import Client
from tests.sim.oracles.formulas import FORMULAS

SLICE_ELEMENTS = 4200  # tests set ps.keyspace.SLICE_ELEMENTS_MAX to it, so that small arrays have several slices

Values = dict[str, Array]

BUNDLE: dict[str, tuple[int, ...]] = {"w": (3, 4), "b": (5,), "scale": (), "none": (0, 3)}  # one slice
DOUBLE: dict[str, tuple[int, ...]] = {"double.w": (7, 2), "double.b": (3,)}  # one float64 slice
LARGE: dict[str, tuple[int, ...]] = {"whole": (41, 100)}  # 16,400 bytes: no bundle, one slice
CUT: dict[str, tuple[int, ...]] = {"cut": (70, 101)}  # by rows
WIDE: dict[str, tuple[int, ...]] = {"wide": (2, 4500)}  # inside its rows
GROUPS = (BUNDLE, DOUBLE, LARGE, CUT, WIDE)  # what is pushed together


@dataclass(frozen=True)
class Push:
    """One push call of one worker."""

    names: tuple[str, ...]
    weight: float


@dataclass
class Problem:
    """What every worker does at every clock; all of it follows from the seed.

    uneven: weights differ. sparse: some groups are pushed in some clocks only, some clocks push nothing. repeated: up
    to three pushes per clock. lazy: after the first clock only some parameters are pulled, gradients are then those of
    the values in hand. groups: which parameters there are.
    """

    seed: int
    workers: int
    clocks: int
    uneven: bool = True
    sparse: bool = False
    repeated: bool = False
    lazy: bool = False
    groups: Sequence[dict[str, tuple[int, ...]]] = GROUPS
    options: dict[str, Options] = field(default_factory=dict)

    def initial(self) -> Values:
        """The same on every worker, though only rank 0's counts: the others register zeros."""
        rng = np.random.default_rng(self.seed)
        names = [(name, shape) for group in self.groups for name, shape in group.items()]
        return {name: np.asarray(rng.standard_normal(shape), dtype_of(name)) for name, shape in names}

    def pulls(self, rank: int, clock: int) -> list[str]:
        """The names that a worker pulls at a clock."""
        names = [name for group in self.groups for name in group]
        if not self.lazy or clock == 0:
            return names
        keep = np.random.default_rng([self.seed, 8, rank, clock]).random(len(names)) < 0.5
        return [name for name, kept in zip(names, keep, strict=True) if kept]

    def pushes(self, rank: int, clock: int) -> list[Push]:
        """The push calls of a worker at a clock, in order."""
        rng = np.random.default_rng([self.seed, 7, rank, clock])
        calls = int(rng.integers(1, 4)) if self.repeated else 1
        made = []
        for _ in range(calls):
            kept = [group for group in self.groups if not self.sparse or rng.random() < 0.6]
            names = tuple(name for group in kept for name in group)
            weight = float(rng.choice([1.0, 2.0, 0.3, 7.7])) if self.uneven else 1.0
            if names:
                made.append(Push(names, weight))
        return made

    def gradient(self, rank: int, clock: int, call: int, name: str, value: Array) -> Array:
        """The gradient of one parameter in its master dtype, from the value that was read."""
        target = np.random.default_rng([self.seed, rank, clock, call, zlib.crc32(name.encode())])
        return np.asarray((value - target.standard_normal(value.shape).astype(value.dtype)) * value.dtype.type(0.75))

    def gradients(self, rank: int, clock: int, call: int, push: Push, values: Values) -> Values:
        """All gradients of one push."""
        return {name: self.gradient(rank, clock, call, name, values[name]) for name in push.names}

    def train(self, client: Client) -> list[Values]:
        """The script: pull, push as told, tick. Goes on from `client.clock`; returns all that it pulled."""
        return self.run(client)

    def run(self, client: Client, spend: Callable[[int], float] = lambda clock: 0.0) -> list[Values]:
        """The script, with seconds of compute time per clock."""
        initial = self.initial()
        client.register({n: v if client.rank == 0 else np.zeros_like(v) for n, v in initial.items()}, self.options)
        hand: Values = {}
        read = []
        for clock in range(client.clock, self.clocks):
            pulled = client.pull(self.pulls(client.rank, clock))
            read.append(pulled)
            hand = {**hand, **pulled}
            if seconds := spend(clock):
                client.spend(seconds)
            for call, push in enumerate(self.pushes(client.rank, clock)):
                grads = self.gradients(client.rank, clock, call, push, hand)
                client.push(grads, weight=push.weight)
                for grad in grads.values():
                    grad[...] = np.nan  # the caller may overwrite its arrays at once
            client.tick()
        return [*read, client.pull()]

    def one_process(self, spec: str, rates: str = "constant") -> list[Values]:
        """BSP by one process: the values at clock 0, 1, ..., with the gradients of all workers at each.

        g = (sum over ranks, then push order, of dtype(weight) * g_k) / dtype(sum of weights), then one step of the
        optimizer on each whole parameter.
        """
        values, factor = self.initial(), schedule(rates).factor
        steps = {name: make_step(spec, value, self.options.get(name, Options())) for name, value in values.items()}
        hands: list[Values] = [{} for _ in range(self.workers)]
        history = [values]
        for clock in range(self.clocks):
            parts: dict[str, list[tuple[float, Array]]] = {name: [] for name in values}
            for rank, hand in enumerate(hands):
                hand.update({name: values[name] for name in self.pulls(rank, clock)})
                for call, push in enumerate(self.pushes(rank, clock)):
                    for name, grad in self.gradients(rank, clock, call, push, hand).items():
                        parts[name].append((push.weight, grad))
            stepped = {
                name: steps[name](values[name], combine(given, spec == "add"), factor(clock))
                for name, given in parts.items()
                if given
            }
            values = {**values, **stepped}
            history.append(values)
        return history

    def sequential(self, spec: str, rates: str = "constant") -> list[Values]:
        """Worker 0 alone, every push one step at once: plain sequential training. The values read at each clock."""
        values, factor = self.initial(), schedule(rates).factor
        steps = {name: make_step(spec, value, self.options.get(name, Options())) for name, value in values.items()}
        hand: Values = {}
        history = [values]
        for clock in range(self.clocks):
            hand.update({name: values[name] for name in self.pulls(0, clock)})
            for call, push in enumerate(self.pushes(0, clock)):
                for name, grad in self.gradients(0, clock, call, push, hand).items():
                    given = combine([(push.weight, grad)], summed=True) if spec == "add" else grad
                    values = {**values, name: steps[name](values[name], given, factor(clock))}
            history.append(values)
        return history


def dtype_of(name: str) -> Any:
    return np.float64 if name.startswith("double") else np.float32


def combine(parts: Sequence[tuple[float, Array]], summed: bool = False) -> Array:
    """The weighted mean (or sum) of gradients in this order, each operation rounded in their dtype."""
    dtype = parts[0][1].dtype.type
    total = parts[0][1] * dtype(parts[0][0])
    for weight, grad in parts[1:]:
        total = total + grad * dtype(weight)
    if summed:
        return np.asarray(total)
    return np.asarray(total / dtype(math.fsum(dtype(weight) for weight, _ in parts)))


def make_step(spec: str, like: Array, options: Options = Options()) -> Callable[[Array, Array, float], Array]:
    """One parameter's optimizer: our own formula where there is one, else one `update` of the whole parameter.

    The step takes values, gradient and the schedule's factor, and returns the new values.
    """
    rule = optimizer(spec)
    decay = rule.weight_decay if options.weight_decay is None else options.weight_decay
    name = spec.partition(":")[0]
    state: list[Float] = [np.zeros(like.size, like.dtype) for _ in rule.state]
    memory: dict[str, Array] = {}
    number = 0

    def step(w: Array, g: Array, factor: float = 1.0) -> Array:
        nonlocal number
        number += 1
        lr = rule.lr * factor * options.lr_scale
        if name in FORMULAS:
            g = g + w * w.dtype.type(decay) if decay else g
            return np.asarray(FORMULAS[name](w, g, memory, lr, number, rule))
        out = np.empty(w.size, w.dtype)
        flat = np.ascontiguousarray(g).reshape(-1)
        rule.update(np.ascontiguousarray(w).reshape(-1), flat, state, out, Step(lr, decay, number))
        return out.reshape(w.shape)

    return step
