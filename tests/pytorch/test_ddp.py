"""What the experiments compare with: how long its backward pass takes is measured alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FORWARD_S, BACKWARD_S = 10.0, [7.0, 0.25, 0.5, 0.125]  # the first pass is slow, as caches are cold


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of its hooks
def test_a_backward_pass_is_measured_alone_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    ddp = importlib.import_module("ddp")
    now, passes = [0.0], iter(BACKWARD_S)

    class Timed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            now[0] += FORWARD_S
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grad: torch.Tensor) -> torch.Tensor:
            now[0] += next(passes)
            return grad[0]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = Timed.apply(self.inner(x))  # type: ignore[no-untyped-call]
            return found

    model = Model()
    before = [value.clone() for value in model.parameters()]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    found = ddp.backward_s(model, torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
    assert found == 0.25
    assert all(
        value.grad is None and torch.equal(value, old) for value, old in zip(model.parameters(), before, strict=True)
    )
