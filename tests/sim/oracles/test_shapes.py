"""Arrays as frameworks hand them over: odd shapes, layouts, byte orders and dtypes; buffers that are only stored."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ps import keyspace
from ps.errors import ConfigError
from ps.keyspace import Options
from ps.sim.links import LinkFaults
from ps.types import Array
from ps.worker.client import Client
from ps.worker.verdicts import Applied
from tests.sim.helpers import MODELS, same_bytes, simulate
from tests.sim.oracles.problem import SLICE_ELEMENTS, Values

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ODD: dict[str, Array] = {
    "zero-d": np.array(2.5, np.float32),
    "empty": np.zeros((0,), np.float32),
    "empty rows": np.zeros((4, 0, 3), np.float32),
    "one": np.array([1.0], np.float32),
    "fortran": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    "strided": np.arange(40, dtype=np.float32)[::4],
    "swapped": np.arange(5, dtype=">f4"),
    "half": np.linspace(-2, 2, 9).astype(np.float16),
    "brain": np.linspace(-2, 2, 9).astype(BFLOAT16),
    "double": np.linspace(-2, 2, 9),
    "large": np.ones((5, 1000), np.float32),
    "large double": np.ones(3000),
    "large half": np.ones(5000, np.float16),
}


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "SLICE_ELEMENTS_MAX", SLICE_ELEMENTS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("servers", [1, 3])
def test_every_shape_and_dtype_goes_there_and_back(servers: int, model: str) -> None:
    """Registered from odd layouts, pulled in the registered shape and dtype, pushed read-only and in other dtypes."""

    def train(client: Client) -> Values:
        client.register(ODD)
        first = client.pull()
        for clock in range(2):
            grads: dict[str, Any] = {}
            for name, value in ODD.items():
                grads[name] = np.ones(value.shape, np.float32 if clock else np.float64, order="F")
                grads[name].flags.writeable = False
            client.push(grads)
            client.tick()
            client.pull()
        return first

    run = simulate(train, seed=servers, workers=1, servers=servers, consistency=model, optimizer="add")
    for name, value in ODD.items():
        want = value.astype(value.dtype.newbyteorder("="))
        same_bytes(run, {name: run.results[0][name]}, {name: want}, "pulled")
    steps = 0.1 * 2  # local_lr times the gradients; of elastic averaging 0.3 of it, and not as a gradient
    moved = {"local": steps, "async_local": steps, "easgd": -0.3 * steps}.get(model.partition(":")[0], 2.0)
    for name, got in run.final().items():
        off = np.abs(got - ODD[name].astype(got.dtype) - moved).max(initial=0)
        assert off < 1e-5, run.say(f"{name}: off by {off}")


@pytest.mark.parametrize("name", ["half", "brain", "large half"])
def test_small_floats_are_trained_in_float32_and_come_back_rounded_once(name: str) -> None:
    """A hundred steps of 2^-12 would all be lost if the server's copy were as short as the parameter."""

    def train(client: Client) -> Array:
        client.register({name: np.ones_like(ODD[name])})
        for _ in range(100):
            client.push({name: np.full(ODD[name].shape, 2.0**-12, np.float32)})
            client.tick()
            client.pull()
        return client.pull()[name]

    run = simulate(train, seed=1, workers=1, optimizer="add", faults=LinkFaults(), apply_s=0.0)
    master = np.full(ODD[name].shape, 1 + 100 * 2.0**-12, np.float32)
    assert run.results[0].dtype == ODD[name].dtype
    assert run.results[0].tobytes() == master.astype(ODD[name].dtype).tobytes(), run.say(str(run.results[0]))
    same_bytes(run, run.final(), {name: master}, "servers")


INTEGERS = {kind: np.arange(7).astype(kind) for n in (8, 16, 32, 64) for kind in (f"int{n}", f"uint{n}")}


@pytest.mark.parametrize("model", ["bsp", "async", "quorum:n=1"])
def test_integer_buffers_and_frozen_parameters_are_stored_and_never_pushed(model: str) -> None:
    extreme = {"uint64 max": np.array([2**64 - 1], np.uint64), "int64 min": np.array([-(2**63)])}
    frozen = {"frozen": np.full(5, np.pi), "frozen nan": np.array([np.nan, np.inf], np.float32)}

    def train(client: Client) -> Values:
        stored = {**INTEGERS, **extreme, **frozen}
        mine = {n: v if client.rank == 0 else np.zeros_like(v) for n, v in stored.items()}
        client.register({**mine, "w": np.zeros(3, np.float32)}, {name: Options(frozen=True) for name in frozen})
        for name in ("int8", "uint64", "frozen"):
            with pytest.raises(ConfigError, match=name):
                client.push({name: stored[name]})
        for _ in range(3):
            client.pull(["w"])
            client.push({"w": np.ones(3, np.float32)})
            client.tick()
        return client.pull(list(stored))

    run = simulate(train, seed=2, workers=2, consistency=model, optimizer="adam:lr=0.1")
    for rank, got in enumerate(run.results):
        same_bytes(run, got, {**INTEGERS, **extreme, **frozen}, f"worker {rank}")


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_the_callers_arrays_are_not_written(model: str, copy: bool) -> None:
    """copy=False lends them out; also to models that accumulate or send deltas. A swapped byte order is read right."""

    def train(client: Client) -> list[Any]:
        client.register({"w": np.zeros(5000, np.float32), "swapped": np.zeros(5000, np.float32)})
        futures = []
        for _ in range(4):
            client.pull()
            grads = {"w": np.ones(5000, np.float32), "swapped": np.ones(5000, ">f4")}
            for grad in grads.values():
                grad.flags.writeable = False
            futures.append(client.push(grads, copy=copy))
            client.tick()
            assert all((grad == 1).all() for grad in grads.values())
        client.pull()
        return [list(future.result().values()) for future in futures]

    run = simulate(train, seed=5, workers=1, consistency=model, optimizer="sgd:lr=0.5")
    values = run.final()
    assert values["w"].tobytes() == values["swapped"].tobytes(), run.say("a swapped byte order was sent as it is")
    if model in ("bsp", "async"):
        assert (values["w"] == -2).all(), run.say(f"values {values['w'][:3]}")
        for clock, verdicts in enumerate(run.results[0]):
            assert set(verdicts) == {Applied(clock + 1)}, run.say(f"verdicts of clock {clock}: {verdicts}")
