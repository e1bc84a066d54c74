"""Every row of the optimizer tables, and what the check says of optimizers that break a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from ps.optim import OPTIMIZERS, WRAPPERS, optimizer
from ps.optim.base import Optimizer, Step
from ps.testing.optimizers import check_optimizer
from ps.types import Float

NEEDS = {"delayed_nesterov": ",period=3"}
ALONE = {name: name if name == "add" else f"{name}:lr=0.1{NEEDS.get(name, '')}" for name in OPTIMIZERS}
WRAPPED = [f"{wrapper}+{spec}" for wrapper in WRAPPERS for name, spec in ALONE.items() if name != "add"]
MORE = [
    "momentum:lr=0.1,decay=-0.3",
    "delayed_nesterov:lr=0.1,period=1",
    "delayed_nesterov:lr=0.1,period=2,c=0.5",
    "ftrl:lr=0.1,l1=0.5,l2=0.1,beta=0.2",
    "adam:lr=0.1,beta1=0,beta2=0",
    "dcasgd:mode=adaptive,lam=2+adam:lr=0.1",
    "staleness:kind=sqrt+dcasgd:mode=adaptive+nesterov:lr=0.1",
]


@pytest.mark.parametrize("spec", [*ALONE.values(), *WRAPPED, *MORE])
def test_every_row_of_the_tables_conforms(spec: str) -> None:
    check_optimizer(optimizer(spec), zero_gradient_keeps_values="ftrl" not in spec)


@dataclass(frozen=True)
class NormScaled(Optimizer):
    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        np.subtract(w_N, grad_N * w_N.dtype.type(step.lr / (1.0 + float(np.linalg.norm(grad_N)))), out=out_N)


@dataclass(frozen=True)
class WritesGradient(Optimizer):
    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        grad_N *= w_N.dtype.type(step.lr)
        np.subtract(w_N, grad_N, out=out_N)


@dataclass(frozen=True)
class AlwaysInPlace(Optimizer):
    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        w_N -= w_N.dtype.type(step.lr) * grad_N
        out_N[:] = w_N


@dataclass(frozen=True)
class Swaps(Optimizer):
    STATE = ("last",)

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        assert isinstance(state, list)
        state[0] = state[0] + grad_N
        np.subtract(w_N, state[0], out=out_N)


@dataclass(frozen=True)
class NoEps(Optimizer):
    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        with np.errstate(all="ignore"):
            np.subtract(w_N, grad_N / np.sqrt(grad_N * grad_N), out=out_N)


@dataclass(frozen=True)
class Drifts(Optimizer):
    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        np.multiply(w_N, w_N.dtype.type(0.5), out=out_N)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (NormScaled(lr=0.1), "the bytes of the whole from its pieces"),
        (WritesGradient(lr=0.1), "read only"),
        (AlwaysInPlace(lr=0.1), "expected w unchanged"),
        (Swaps(lr=0.1), "written in place"),
        (NoEps(lr=0.1), "expected finite"),
        (Drifts(lr=0.1), "zero gradient"),
    ],
)
def test_the_check_names_the_broken_rule(broken: Optimizer, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_optimizer(broken)
