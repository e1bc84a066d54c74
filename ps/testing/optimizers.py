"""What every server optimizer must hold, as one call for the tests of its author: `check_optimizer(Mine(lr=0.1))`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ps.optim.base import Optimizer, Step
from ps.types import Float

STEPS = 4  # commits of one run
CUTS = (0, 1, 40, 41, 97)  # slice borders of the split run; the last is its length


def check_optimizer(optimizer: Optimizer, *, zero_gradient_keeps_values: bool = True) -> None:
    """Raises AssertionError, saying which rule `optimizer` breaks; returns when it holds them all.

    Bit for bit: equal runs give equal bytes; a slice cut in pieces gives the bytes of the whole; `out` may be `w` or
    another array; gradient, base and (elsewhere) `w` stay as they were. Also: any length from 0, float32 and float64,
    with and without a base, and finite results for denormals, zeros and -0.0.
    `zero_gradient_keeps_values`: with zero state, no decay and a zero gradient the values keep their bytes. Say False
    for a rule that derives its values from its state, such as ftrl: it keeps them to rounding.
    """
    names = optimizer.state
    assert len(set(names)) == len(names), f"{optimizer}: state: expected distinct names, got {names}"
    for dtype in (np.float32, np.float64):
        for n in (0, 1, 7, CUTS[-1]):
            for with_base in (False, True):
                for weight_decay in (0.0, 0.01):
                    _check_run(_Case(optimizer, n, dtype, with_base, weight_decay))
        _check_finite(optimizer, dtype)
        if zero_gradient_keeps_values:
            _check_zero_gradient(optimizer, dtype)


@dataclass(frozen=True)
class _Case:
    """One optimizer on one kind of input; the inputs follow from the fields alone."""

    optimizer: Optimizer
    n: int
    dtype: DTypeLike
    with_base: bool
    weight_decay: float

    def __str__(self) -> str:
        base = "with" if self.with_base else "without"
        return f"{self.optimizer}: n={self.n}, {np.dtype(self.dtype)}, {base} a base, weight_decay={self.weight_decay}"

    def steps(self) -> Iterator[tuple[Float, Step]]:
        """Gradient and scalars of each commit, with growing staleness; arrays are read-only."""
        rng = np.random.default_rng(self.n + 1)
        for number in range(1, STEPS + 1):
            base_N = _readonly(self._normal(rng)) if self.with_base else None
            step = Step(self.optimizer.lr, self.weight_decay, number, number - 1, base_N)
            yield _readonly(self._normal(rng)), step

    def start(self) -> tuple[Float, list[Float]]:
        """Values and zero state before the first commit."""
        w_N = self._normal(np.random.default_rng(self.n))
        return w_N, [np.zeros(self.n, self.dtype) for _ in self.optimizer.state]

    def _normal(self, rng: np.random.Generator) -> Float:
        return rng.standard_normal(self.n).astype(self.dtype)


def _check_run(case: _Case) -> None:
    expected = _run_in_place(case)
    _assert_same(expected, _run_in_place(case), f"{case}: expected equal bytes from an equal run")
    _assert_same(expected, _run_elsewhere(case), f"{case}: expected the same bytes when out is another array than w")
    if case.n == CUTS[-1]:
        _assert_same(expected, _run_split(case), f"{case}: expected the bytes of the whole from its pieces")
    for name, array_N in zip(("values", *case.optimizer.state), expected, strict=True):
        assert np.isfinite(array_N).all(), f"{case}: expected finite {name}"


def _run_in_place(case: _Case) -> list[Float]:
    w_N, state = case.start()
    for grad_N, step in case.steps():
        _commit(case, w_N, grad_N, state, w_N, step)
    return [w_N, *state]


def _run_elsewhere(case: _Case) -> list[Float]:
    w_N, state = case.start()
    for grad_N, step in case.steps():
        before = w_N.tobytes()
        out_N = np.full(case.n, np.nan, case.dtype)
        _commit(case, w_N, grad_N, state, out_N, step)
        assert w_N.tobytes() == before, f"{case}: expected w unchanged when out is another array"
        w_N = out_N
    return [w_N, *state]


def _run_split(case: _Case) -> list[Float]:
    w_N, state = case.start()
    for grad_N, step in case.steps():
        for start, stop in pairwise(CUTS):
            part = slice(start, stop)
            cut_step = step if step.base_N is None else replace(step, base_N=step.base_N[part])
            _commit(case, w_N[part], grad_N[part], [x[part] for x in state], w_N[part], cut_step)
    return [w_N, *state]


def _commit(case: _Case, w_N: Float, grad_N: Float, state: list[Float], out_N: Float, step: Step) -> None:
    """One commit and what must hold around it: inputs unchanged, the same state arrays written in place."""
    read_only = [x for x in (grad_N, step.base_N) if x is not None]
    before = [x.tobytes() for x in read_only]
    given = list(state)
    try:
        case.optimizer.update(w_N, grad_N, given, out_N, step)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise AssertionError(f"{case}: expected gradient and base to be read only, got a write: {error}") from error
    assert [x.tobytes() for x in read_only] == before, f"{case}: expected gradient and base unchanged"
    kept = len(given) == len(state) and all(a is b for a, b in zip(given, state, strict=True))
    assert kept, f"{case}: expected the state written in place, got other arrays in its list"


def _check_finite(optimizer: Optimizer, dtype: DTypeLike) -> None:
    """Denormals, zeros of both signs and ones, each as value and as gradient, over several commits."""
    tiny = float(np.finfo(np.dtype(dtype)).smallest_subnormal)
    odd = np.array([0.0, -0.0, tiny, -tiny, 1e-40, -1e-40, 1e-30, 1.0, -1.0], dtype)
    w_N, grad_N = np.repeat(odd, odd.size), _readonly(np.tile(odd, odd.size))
    state = [np.zeros(w_N.size, dtype) for _ in optimizer.state]
    for number in range(1, STEPS + 1):
        base_N = _readonly(w_N.copy()) if optimizer.needs_base else None
        optimizer.update(w_N, grad_N, state, w_N, Step(optimizer.lr, 0.01, number, 0, base_N))
    for name, array_N in zip(("values", *optimizer.state), (w_N, *state), strict=True):
        bad = np.flatnonzero(~np.isfinite(array_N))
        assert not bad.size, f"{optimizer}: expected finite {name} in {np.dtype(dtype)}, got not for g={grad_N[bad]}"


def _check_zero_gradient(optimizer: Optimizer, dtype: DTypeLike) -> None:
    case = _Case(optimizer, 33, dtype, with_base=False, weight_decay=0.0)
    w_N, state = case.start()
    before, zero_N = w_N.tobytes(), _readonly(np.zeros(case.n, dtype))
    for number in range(1, STEPS + 1):
        optimizer.update(w_N, zero_N, state, w_N, Step(optimizer.lr, 0.0, number))
    assert w_N.tobytes() == before, f"{case}: expected a zero gradient on zero state to leave the values as they are"


def _assert_same(expected: Sequence[Float], got: Sequence[Float], rule: str) -> None:
    for a, b in zip(expected, got, strict=True):
        assert a.tobytes() == b.tobytes(), f"{rule}, got a difference of up to {np.abs(a - b).max()}"


def _readonly(array_N: np.ndarray[Any, np.dtype[Any]]) -> Float:
    array_N.flags.writeable = False
    return array_N
