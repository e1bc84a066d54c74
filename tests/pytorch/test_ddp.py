"""What the experiments compare with: how long its backward pass takes is measured alone, and what it tells first."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
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


class NoLooks:
    """In the place of looks, whose thread would stay."""

    def __init__(self, every_s: float) -> None: ...
    def ready(self, now_s: float) -> None: ...
    def is_due(self, now_s: float) -> bool:
        return False


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
def test_the_first_row_is_the_loss_of_the_first_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seconds count from there, so it may not be the first look at the values, which is told later."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    ddp = importlib.import_module("ddp")
    random = torch.Generator().manual_seed(1)
    x, y = torch.rand(ddp.VALIDATION + 64, 784, generator=random), torch.arange(ddp.VALIDATION + 64) % 10
    monkeypatch.setattr(ddp, "mnist", lambda folder: tuple(part.numpy() for part in (x, y, x[:5], y[:5])))
    monkeypatch.setattr(ddp, "Looks", NoLooks)
    monkeypatch.setattr("os._exit", lambda code: dist.destroy_process_group())
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "PS_SEED": "3", "PS_RUN_LOG": str(tmp_path / "log")}.items():
        monkeypatch.setenv(name, value)
    alone = partial(dist.init_process_group, rank=0, world_size=1, init_method=f"file://{tmp_path}/store")
    monkeypatch.setattr(dist, "init_process_group", alone)
    monkeypatch.setattr(sys, "argv", ["ddp.py", "--hidden", "4", "--clocks", "2"])
    ddp.main()
    first = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert (first["rank"], first["clock"], first["name"]) == (0, 1, "loss")
    assert 1 < first["value"] < 5, "about log(10): of values that nobody has trained"
