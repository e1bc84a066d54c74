"""The spelling of optimizers: tables, chains, one's own classes, and what errors say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest

from ps.errors import ConfigError
from ps.optim import OPTIMIZERS, WRAPPERS, Optimizer, Step, Wrapper, optimizer
from ps.optim.adamw import AdamW
from ps.optim.add import Add
from ps.optim.dcasgd import DelayCompensated
from ps.optim.momentum import Momentum
from ps.optim.sgd import Sgd
from ps.optim.staleness import Staleness
from ps.types import Float


@dataclass(frozen=True)
class MySgd(Optimizer):
    twist: float = 2.0

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        np.subtract(w_N, self.twist * step.lr * grad_N, out=out_N)


@dataclass(frozen=True)
class Negated(Wrapper):
    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        super().update(w_N, -grad_N, state, out_N, step)


@dataclass(frozen=True)
class Unfinished(Optimizer):
    pass


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module with the three classes above."""
    module = ModuleType("my_optim")
    for cls in (MySgd, Negated, Unfinished):
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, "my_optim", module)
    return "my_optim"


def test_specs_become_instances() -> None:
    assert optimizer("add") == Add()
    assert optimizer("sgd:lr=0.1") == Sgd(lr=0.1)
    assert optimizer("momentum:lr=0.1,decay=-0.3,weight_decay=0.01") == Momentum(0.1, 0.01, -0.3)
    assert optimizer("adamw:lr=1e-3") == AdamW(lr=1e-3, weight_decay=0.01)
    inner = DelayCompensated(Sgd(lr=0.1), lam=2.0, mode="adaptive")
    assert optimizer("staleness:kind=sqrt+dcasgd:lam=2,mode=adaptive+sgd:lr=0.1") == Staleness(inner, kind="sqrt")


def test_add_takes_the_sum_and_all_others_the_mean() -> None:
    assert {name for name, cls in (OPTIMIZERS | WRAPPERS).items() if cls.TAKES == "sum"} == {"add"}


def test_own_classes_work_anywhere_in_the_chain(mine: str) -> None:
    rule = optimizer(f"staleness+{mine}:Negated+{mine}:MySgd:lr=0.5,twist=4")
    assert rule == Staleness(Negated(MySgd(lr=0.5, twist=4.0)))
    w_N = np.zeros(1)
    rule.update(w_N, np.ones(1), [], w_N, Step(0.5, staleness=2))
    assert w_N[0] == 4 * 0.25


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("sdg:lr=0.1", r"optimizer: expected one of adagrad, .*sgd or package.module:Class, got 'sdg'"),
        ("sgd", "lr: expected a value, got none"),
        ("sgd:lr=0", "lr: expected greater than 0|lr: .*greater than 0"),
        ("sgd:lr=nan", "lr"),
        ("add:lr=0.1", "add expected no options, got 'lr'"),
        ("momentum:lr=0.1,dcay=0.9", "momentum expected one of lr, weight_decay, decay, got 'dcay'"),
        ("adam:lr=0.1,beta1=1", "beta1: .*less than 1, got '1'"),
        ("adagrad:lr=0.1,eps=0", "eps"),
        ("staleness:kind=cube+sgd:lr=0.1", "kind: .*'inverse' or 'sqrt'"),
        ("dcasgd:lam=-1+sgd:lr=0.1", "lam"),
        ("stale+sgd:lr=0.1", "expected one of dcasgd, staleness or package.module:Class, got 'stale'"),
        ("staleness:kind=sqrt", r"'staleness', which wraps one; write for example staleness:kind=sqrt\+sgd:lr=0.1"),
        ("dcasgd+staleness", r"write for example dcasgd\+staleness\+sgd:lr=0.1"),
        ("sgd:lr=0.1+staleness", r"optimizer 'sgd' before it; write for example staleness\+sgd:lr=0.1"),
        ("staleness+add", "Add, which sums pushes as they are; write it alone"),
        ("staleness:inner=sgd+sgd:lr=1", r"inner is what follows the '\+'; write staleness\+sgd"),
        ("my_optim:MySgd:lr=1+sgd:lr=1", "expected wrappers .* got the optimizer 'my_optim:MySgd' before it"),
        ("staleness+my_optim:Negated", "'my_optim:Negated', which wraps one"),
        ("my_optim:Unfinished:lr=1", "without abstract methods, got Unfinished"),
        ("ps.optim.base:Step:lr=1", "subclass of ps.optim.base.Optimizer"),
        ("ps.optim.base:Step+sgd:lr=1", "subclass of ps.optim.wrapper.Wrapper"),
        ("no.such:Thing:lr=1", "importable package.module:Class"),
        ("", "expected one of adagrad"),
    ],
)
def test_a_misspelled_optimizer_says_what_to_write(spec: str, says: str, mine: str) -> None:
    with pytest.raises(ConfigError, match=says):
        optimizer(spec)


def test_a_wrapper_around_add_is_refused_in_python_too() -> None:
    with pytest.raises(ConfigError, match="Staleness expected an optimizer of gradients"):
        Staleness(Add())
