"""A job in two halves, the second made anew from the values and the worker's state of the first, against one in one."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ps
import ps.torch
from ps.torch.state import plain, restored
from tests.carried import carried

N, M = 8, 12  # steps of the halves; rounds of `local` are 4 long
ROWS = 8
Values = dict[str, torch.Tensor]
Half = tuple[Values, dict[str, Any]]  # what a half ends with, and what the next begins with
Train = Callable[[ps.Client, Values | None, dict[str, Any], int, list[Half]], None]
LOCAL: dict[str, Any] = {"consistency": "local:every=4", "optimizer": "sgd:lr=1"}
CODED: dict[str, Any] = {"consistency": "bsp", "push_compression": "onebit:min_elements=0,group=16"}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3))


def half(train: Train, options: dict[str, Any], seed: int, start: Half | None, steps: int) -> Half:
    """Steps of one worker in a fresh cluster. seed: of what is drawn before any state is loaded."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    values, state = (None, {}) if start is None else start
    ended: list[Half] = []
    with ps.LocalCluster(workers=1, seed=1, **options) as cluster:
        cluster.run(partial(_train, train, values, carried(state), steps, ended))
    return ended[0]


def _train(
    train: Train, values: Values | None, state: dict[str, Any], steps: int, ended: list[Half], client: ps.Client
) -> None:
    train(client, values, state, steps, ended)


def taken(client: ps.Client, model: nn.Module) -> Half:
    client.barrier()
    return {name: value.clone() for name, value in model.state_dict().items()}, client.state()


def local_adamw(client: ps.Client, values: Values | None, state: dict[str, Any], steps: int, ended: list[Half]) -> None:
    """AdamW with a schedule, scaled losses, dropout, and noise of Python's and NumPy's own generators."""
    drawn = torch.get_rng_state()
    model = network()
    torch.set_rng_state(drawn)
    if values is not None:
        model.load_state_dict(values)
    own = torch.optim.AdamW(model.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cpu", init_scale=3.0, growth_factor=1.7, growth_interval=3)
    optimizer = ps.torch.DistributedOptimizer(own, model, client, scaler=scaler)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N + M)
    optimizer.register_state(schedule=schedule)
    client.load_state(state)
    for _ in range(steps):
        x = torch.randn(ROWS, 6) + random.random() + float(np.random.standard_normal())
        optimizer.zero_grad()
        loss = model(x).square().mean()
        scaler.scale(loss).backward()
        optimizer.step()
        scaler.update()
        schedule.step()
    ended.append(taken(client, model))


def leased_onebit(
    client: ps.Client, values: Values | None, state: dict[str, Any], steps: int, ended: list[Half]
) -> None:
    """Gradients at one bit, of leased examples; the servers step, at a rate that a schedule moves."""
    model = network()
    if values is not None:
        model.load_state_dict(values)
    rng = np.random.default_rng(5)
    data = rng.standard_normal((7 * ROWS, 6)).astype(np.float32)
    optimizer = ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, client)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [N // 2, N + 2])
    optimizer.register_state(schedule=schedule)
    batches = ps.data.leased((data,), client, batch=ROWS, epochs=4, lease=7 * ROWS)
    client.load_state(state)
    client.barrier()
    for step, (x,) in enumerate(batches):
        if step == steps:
            break
        optimizer.zero_grad()
        model(torch.from_numpy(x)).square().mean().backward()
        optimizer.step()
        schedule.step()
    ended.append(taken(client, model))


JOBS: dict[str, tuple[Train, dict[str, Any], set[str]]] = {
    "local_adamw": (local_adamw, LOCAL, {"ps.torch.optimizer", "ps.torch.random", "ps.torch.scaler", "schedule"}),
    "leased_onebit": (
        leased_onebit,
        CODED,
        {"ps.compression", "ps.data.data", "ps.torch.optimizer", "ps.torch.random", "schedule"},
    ),
}


def same(one: Values, other: Values) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("job", sorted(JOBS))
def test_a_job_in_two_halves_is_the_job_in_one(job: str) -> None:
    train, options, needed = JOBS[job]
    whole, _ = half(train, options, 7, None, N + M)
    values, state = half(train, options, 7, None, N)
    assert set(state) - needed <= {"ps.compression"}
    rest, _ = half(train, options, 99, (values, state), M)
    assert same(rest, whole)
    for name in sorted(needed):
        without, _ = half(train, options, 99, (values, {k: v for k, v in state.items() if k != name}), M)
        assert not same(without, whole), f"the test does not need {name}"


def loaded(change: Callable[[dict[str, Any]], Any]) -> None:
    """Loads the state of a worker that has made a step, changed."""

    def train(client: ps.Client) -> None:
        model = network()
        optimizer = ps.torch.DistributedOptimizer(torch.optim.AdamW(model.parameters()), model, client)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        optimizer.register_state(schedule=schedule, average=torch.optim.swa_utils.AveragedModel(nn.Linear(2, 3)))
        model(torch.ones(1, 6)).sum().backward()
        optimizer.step()
        schedule.step()
        state = client.state()
        change(state)
        client.load_state(state)

    with ps.LocalCluster(workers=1, seed=1, **LOCAL) as cluster:
        cluster.run(train)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["ps.torch.optimizer"].pop("groups"), "'ps.torch.optimizer': expected 'groups', as state"),
        (
            lambda s: s["ps.torch.optimizer"]["groups"].append({}),
            r"'ps.torch.optimizer': groups: expected 1, as this optimizer has, got 2",
        ),
        (
            lambda s: s["ps.torch.optimizer"]["groups"][0].pop("betas"),
            r"'ps.torch.optimizer': groups\[0\]: expected 'betas' in it, got amsgrad, ",
        ),
        (
            lambda s: s["ps.torch.optimizer"]["parameters"]["0.bias"].update(shape=[4]),
            r"'ps.torch.optimizer': parameters.0.bias: expected shape \(16,\), got \(4,\)",
        ),
        (
            lambda s: s["ps.torch.optimizer"]["parameters"].update({"9.bias": {}}),
            r"'ps.torch.optimizer': parameters: expected those of this optimizer, got '9.bias'",
        ),
        (lambda s: s["ps.torch.random"].pop("numpy"), "'ps.torch.random': expected 'numpy', as state"),
        (
            lambda s: s["ps.torch.random"].update(torch={"ps:tensor": np.zeros(3, np.uint8)}),
            "'ps.torch.random': expected what state.* fails with (Runtime|Type)Error: ",
        ),
        (lambda s: s["schedule"].pop("last_epoch"), "'schedule': last_epoch: expected it, as ConstantLR has it, got"),
        (
            lambda s: s["average"].update({"module.bias": {"ps:tensor": np.zeros(2, np.float32)}}),
            r"'average': module.bias: expected shape \(3,\), got \(2,\)",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: Callable[[dict[str, Any]], Any], words: str) -> None:
    with pytest.raises(ps.ConfigError, match=f"^load_state: {words}"):
        loaded(change)


def test_only_what_has_a_state_can_be_registered() -> None:
    def train(client: ps.Client) -> None:
        model = network()
        optimizer = ps.torch.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.1), model, client)
        optimizer.register_state(rng=np.random.default_rng(1))  # type: ignore[arg-type]

    words = "^register_state: rng: expected state_dict and load_state_dict, got a Generator without"
    with ps.LocalCluster(workers=1, seed=1) as cluster, pytest.raises(ps.ConfigError, match=words):
        cluster.run(train)


def test_everything_comes_back_as_it_was() -> None:
    value = {
        "numbers": [None, True, 3, 0.1, math.inf, "text", b"bytes"],
        "tuple": (1, (2.5, [3])),
        "numbered": {0: "a", 1: {"b": (2,)}},
        "counter": Counter({30: 1, 60: 2}),
        "array": np.arange(3, dtype=np.uint32),
        "scalar": np.float64(0.5),
    }
    back = restored(carried(plain(value, "value")))
    array = back.pop("array"), value.pop("array")
    assert array[0].dtype == np.uint32 and (array[0] == array[1]).all() and array[0].flags.writeable
    assert back == value and type(back["tuple"]) is tuple and type(back["counter"]) is Counter


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("size", [(), (0,), (3, 2)])
def test_tensors_come_back_in_memory_of_their_own(dtype: torch.dtype, size: tuple[int, ...]) -> None:
    tensor = torch.ones(size, dtype=dtype)
    kept = plain(tensor, "tensor")
    tensor.zero_()
    one, other = restored(carried(kept)), restored(kept)
    other.zero_()
    assert torch.equal(one, torch.ones(size, dtype=dtype)) and torch.equal(restored(kept), one) and one.dtype == dtype


def test_what_has_no_plain_form_is_named() -> None:
    with pytest.raises(ps.ConfigError, match=r"^state: schedule\.lambdas\[1\]: expected numbers, .* got a function$"):
        plain({"lambdas": [1, lambda: 2]}, "schedule")
