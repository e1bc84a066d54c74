"""One script under every model, what JAX makes of the arrays that it gets, and mistakes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import ps
from ps.errors import ConfigError
from ps.jax import DistributedOptimizer
from tests.jax.models import batch_of, flat, gradient, initial_params, loss, run, together, whole_loss
from tests.runs import MODELS

LOCAL = {"consistency": "local:every=4", "optimizer": "sgd:lr=1"}


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "bias"], meta_fields=["name"])
@dataclass
class Layer:
    weight: Any
    bias: Any
    name: str


def refused(why: str, asked: Any = "sgd:lr=0.1", params: Any = None, **options: Any) -> None:
    """The wrapper is, in a cluster with these options."""

    def train(client: ps.Client) -> None:
        with pytest.raises(ConfigError, match=re.escape(why)):
            DistributedOptimizer(asked, {"w": np.zeros(3, np.float32)} if params is None else params, client)

    run(train, **options)


@pytest.mark.parametrize("options", MODELS, ids=lambda options: ",".join(options.values()))
def test_one_script_under_every_model(options: dict[str, Any]) -> None:
    values = together("momentum:lr=0.1,decay=0.5", 2, 80, seed=1, **options)
    before = whole_loss(initial_params())
    assert all(whole_loss(one) < 0.5 * before for one in values)


def test_the_runs_own_rate_steps_locally_where_the_script_names_no_optimizer() -> None:
    options: dict[str, Any] = {"consistency": "local:every=4,local_lr=0.1", "optimizer": "sgd:lr=1"}
    for one in together(None, 2, 80, seed=1, **options):
        assert whole_loss(one) < 0.7 * whole_loss(initial_params())


@pytest.mark.parametrize("options", [{}, LOCAL], ids=["bsp", "local"])
def test_a_compiled_function_is_traced_once(options: dict[str, Any]) -> None:
    """Also where a leaf is a number of Python, whose type JAX calls weak."""
    traces = []

    @jax.jit
    def counted(params: Any, x: Any, y: Any) -> Any:
        traces.append(1)
        return jax.value_and_grad(lambda params: params["gain"] * loss(params["net"], x, y))(params)

    def train(client: ps.Client) -> None:
        optimizer = DistributedOptimizer("adam:lr=0.01", {"net": initial_params(), "gain": 1.0}, client)
        for step in range(10):
            _, grads = counted(optimizer.params, *batch_of(step, 0))
            optimizer.step(grads)

    run(train, **options)
    assert len(traces) == 1


@pytest.mark.parametrize("options", [{}, LOCAL], ids=["bsp", "local"])
def test_params_that_are_held_do_not_change(options: dict[str, Any]) -> None:
    """JAX goes on using the memory of a NumPy array that is aligned: a later pull must not write there."""
    params = {f"w{i}": np.zeros(5000 + i, np.float32) for i in range(16)}

    def train(client: ps.Client) -> None:
        optimizer, held = DistributedOptimizer("sgd:lr=1", params, client), []
        for _ in range(6):
            held.append(optimizer.params)
            optimizer.step(jax.tree.map(lambda leaf: -jnp.ones_like(leaf), held[-1]))
        held.append(optimizer.params)
        for steps, one in enumerate(held):
            np.testing.assert_allclose(flat(one), steps, rtol=1e-6)

    run(train, **options)


def test_structure_shapes_and_types_come_back() -> None:
    params = {
        "a": Layer(jnp.ones((2, 3), jnp.bfloat16), jnp.zeros(3, jnp.float16), "kept"),
        "b": [jnp.float32(1), None, (jnp.ones((0, 2)),)],
        "c": 0.5,
    }

    def train(client: ps.Client) -> Any:
        optimizer = DistributedOptimizer("sgd:lr=0.5", params, client)
        optimizer.step(jax.tree.map(lambda leaf: jnp.ones_like(leaf), optimizer.params))
        return optimizer.params, sorted(client.pull())

    ((after, names),) = run(train)
    assert names == ["a/bias", "a/weight", "b/0", "b/2/0", "c"]
    assert str(jax.tree.structure(after)) == str(jax.tree.structure(params))
    for leaf, before in zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True):
        assert isinstance(leaf, jax.Array) and not leaf.weak_type
        assert leaf.shape == np.shape(before) and leaf.dtype == jnp.asarray(before).dtype
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), np.asarray(before, np.float32) - 0.5)


def test_a_tree_may_be_one_leaf() -> None:
    def train(client: ps.Client) -> Any:
        optimizer = DistributedOptimizer("sgd:lr=1", jnp.zeros(3), client)
        optimizer.step(jnp.arange(3.0))
        return optimizer.params

    np.testing.assert_array_equal(run(train)[0], [0, -1, -2])


def test_halves_learn_in_the_servers_single_precision() -> None:
    """1 + 1000 steps of 2^-12: each alone is lost in bfloat16, which has 8 bits."""

    def train(client: ps.Client) -> Any:
        optimizer = DistributedOptimizer(f"sgd:lr={2.0**-12!r}", {"w": jnp.ones(3, jnp.bfloat16)}, client)
        for _ in range(1024):
            optimizer.step({"w": -jnp.ones(3, jnp.bfloat16)})
        return optimizer.params["w"]

    np.testing.assert_array_equal(np.asarray(run(train)[0], np.float32), 1.25)


def test_leaves_stay_on_their_devices() -> None:
    mesh = Mesh(np.array(jax.devices("cpu")), ("part",))
    sharding = NamedSharding(mesh, PartitionSpec("part"))

    def train(client: ps.Client) -> Any:
        params = {"spread": jax.device_put(jnp.zeros((8, 2)), sharding), "one": jnp.zeros(2)}
        optimizer = DistributedOptimizer("sgd:lr=1", params, client)
        optimizer.step(jax.tree.map(jnp.ones_like, optimizer.params))
        return optimizer.params

    (after,) = run(train)
    assert after["spread"].sharding == sharding and not after["one"].committed
    np.testing.assert_array_equal(after["spread"], -np.ones((8, 2)))


def test_params_follow_while_a_worker_has_no_leased_data_left() -> None:
    def train(client: ps.Client) -> Any:
        optimizer, own = DistributedOptimizer("sgd:lr=0.1", initial_params(), client), 0
        for x, y in ps.data.leased(batch_of(0, 0, 56), client, batch=8, epochs=1, lease=16):
            optimizer.step(gradient(optimizer.params, x, y), weight=len(x))
            own += 1
        return client.clock - own, flat(optimizer.params), flat(optimizer.pull())

    idle, followed, pulled = zip(*run(train, 2, seed=1), strict=True)
    assert max(idle) > 0
    np.testing.assert_array_equal(followed, pulled)


@pytest.mark.parametrize("options", [{}, LOCAL], ids=["bsp", "local"])
def test_what_a_rule_of_the_run_has_frozen_stays(options: dict[str, Any]) -> None:
    def train(client: ps.Client) -> Any:
        optimizer = DistributedOptimizer("adamw:lr=0.1", initial_params(), client)
        for step in range(6):
            optimizer.step(gradient(optimizer.params, *batch_of(step, 0)))
        return optimizer.params

    (after,) = run(train, parameters=({"match": "layers/0/*", "frozen": True},), **options)
    np.testing.assert_array_equal(after["layers"][0]["w"], initial_params()["layers"][0]["w"])
    assert not np.array_equal(after["layers"][1]["w"], initial_params()["layers"][1]["w"])


def test_moments_under_local_are_state_of_the_worker() -> None:
    """Adam's step depends on gradients and moments only: from the same state it is the same step."""

    def train(client: ps.Client) -> Any:
        optimizer = DistributedOptimizer("adam:lr=0.1", initial_params(), client)
        at = [flat(optimizer.params)]

        def step(number: int) -> None:
            optimizer.step(gradient(initial_params(), *batch_of(number, 0)))
            at.append(flat(optimizer.params))

        step(0)
        kept = client.state()
        assert all(type(one) is np.ndarray for one in kept["ps.jax"].values())
        step(1)
        client.load_state(kept)
        step(1)
        step(1)
        with pytest.raises(ConfigError, match=r"^load_state: 'ps\.jax': expected .*mu.*, got count$"):
            client.load_state({"ps.jax": {"count": np.zeros(())}})
        return np.diff(at, axis=0)

    ((_, first, again, next),) = run(train, consistency="local:every=100")
    np.testing.assert_allclose(first, again, atol=1e-6)
    assert np.abs(next - again).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda leaf: leaf[:, :1], "float32 of shape (3, 1)"),
        (lambda leaf: leaf[0], "float32 of shape (4,)"),
        (lambda leaf: leaf.astype(np.float64), "float64 of shape (3, 4)"),
        (lambda leaf: leaf.astype(np.int32), "int32 of shape (3, 4)"),
    ],
)
def test_a_state_that_does_not_fit_is_named(change: Any, got: str) -> None:
    def train(client: ps.Client) -> None:
        optimizer = DistributedOptimizer("adam:lr=0.1", {"w": np.ones((3, 4), np.float32)}, client)
        optimizer.step({"w": np.ones((3, 4), np.float32)})
        kept = client.state()["ps.jax"]
        (name,) = (name for name in kept if name.endswith("mu/w"))
        why = f"load_state: 'ps.jax': {name}: expected float32 of shape (3, 4), got {got}"
        with pytest.raises(ConfigError, match=f"^{re.escape(why)}$"):
            client.load_state({"ps.jax": {**kept, name: change(kept[name])}})
        for name, leaf in client.state()["ps.jax"].items():
            np.testing.assert_array_equal(leaf, kept[name])

    run(train, consistency="local:every=4", optimizer="sgd:lr=1")


# ---- mistakes -------------------------------------------------------------------------------------------------------
def test_optax_is_for_local() -> None:
    for consistency in ("bsp", "ssp:staleness=3", "async"):
        refused(
            f"optimizer: expected a spelling such as 'adamw:lr=3e-4' under --consistency {consistency}, where servers "
            f"step, got an optax transformation",
            optax.adam(1e-3), consistency=consistency,
        )  # fmt: skip


def test_what_is_no_optimizer_is_named() -> None:
    refused("expected a spelling such as 'adamw:lr=3e-4' under --consistency bsp, where servers step, got 0.1", 0.1)
    refused("expected a spelling such as 'adamw:lr=3e-4' or an optax transformation", None, **LOCAL)
    refused("expected one of sgd, momentum, nesterov, rmsprop, adam, adamw under --consistency local", "ftrl:lr=1",
            **LOCAL)  # fmt: skip
    refused("optimizer: expected sgd:lr=0.1 as the script brings it, or none named by the run", optimizer="adam:lr=1")


@pytest.mark.parametrize(
    ("leaf", "got"),
    [
        (np.arange(3), "int32"),
        (np.ones(3, bool), "bool"),
        (np.ones(3, complex), "complex64"),
        (jnp.zeros(3, jnp.float8_e4m3fn), "float8_e4m3fn"),
        (lambda x: x, "function"),
        ("tanh", "str"),
    ],
)
def test_what_cannot_be_trained_is_named(leaf: Any, got: str) -> None:
    why = (
        f"parameter 'a/0': expected one of float16, bfloat16, float32, float64, got {got}; keep what is not trained out"
    )
    refused(why, params={"a": [leaf], "w": np.zeros(3)})


def test_other_trees_that_cannot_be_registered() -> None:
    refused("parameter 'key': expected real numbers, got a PRNG key", params={"key": jax.random.key(0)})
    refused("params: expected a pytree with arrays as leaves, got one without leaves", params={"a": None})
    refused("params: expected one leaf 'a/b', got two", params={"a": {"b": np.ones(1)}, "a/b": np.ones(1)})


@pytest.mark.parametrize(
    ("grads", "why"),
    [
        ({"a": [np.ones(3)]}, "gradient of 'a/1': expected an array, as params have one there, got none"),
        ({"a": [np.ones(3), None]}, "gradient of 'a/1': expected an array, as params have one there, got none"),
        (
            {"a": [np.ones(3)] * 2, "b": np.ones(1)},
            "gradient of 'b': expected none, as params have no such leaf",
        ),
        ({"a": [np.ones(3), np.ones(4)]}, "gradient of 'a/1': expected shape (3,), got (4,)"),
    ],
)
@pytest.mark.parametrize("options", [{}, LOCAL], ids=["bsp", "local"])
def test_gradients_of_another_tree_are_named(grads: Any, why: str, options: dict[str, Any]) -> None:
    def train(client: ps.Client) -> None:
        optimizer = DistributedOptimizer("sgd:lr=0.1", {"a": [np.zeros(3), np.zeros(3)]}, client)
        with pytest.raises(ConfigError, match=re.escape(why)):
            optimizer.step(grads)
        optimizer.step({"a": [np.ones(3), np.ones(3)]})  # the job goes on
        np.testing.assert_allclose(optimizer.params["a"][1], -0.1, rtol=1e-6)

    run(train, **options)


def test_a_gradient_with_nan_is_dropped() -> None:
    def train(client: ps.Client) -> Any:
        optimizer = DistributedOptimizer("sgd:lr=0.1", {"w": np.ones(3)}, client)
        optimizer.step({"w": jnp.array([0.0, jnp.nan, 0.0])})
        return optimizer.params["w"], client.clock

    ((w, clock),) = run(train)
    np.testing.assert_array_equal(w, np.ones(3))
    assert clock == 1


@pytest.mark.parametrize(
    ("value", "weight", "why"),
    [(jnp.nan, 1.0, "step_to: expected finite values, got NaN or Inf"), (0.5, 0.0, "push: weight: expected a number")],
)
def test_a_step_that_is_refused_under_local_has_not_been_made(value: float, weight: float, why: str) -> None:
    """Adam's moments are as before, too: what comes next is optax's second step."""

    def train(client: ps.Client) -> None:
        optimizer = DistributedOptimizer("adam:lr=0.1", {"w": np.ones(3, np.float32)}, client)
        optimizer.step({"w": jnp.array([1.0, 2.0, 3.0])})
        before = optimizer.params["w"]
        with pytest.raises(ConfigError, match=why):
            optimizer.step({"w": jnp.array([0.0, value, 0.0])}, weight)
        np.testing.assert_array_equal(optimizer.params["w"], before)
        assert client.clock == 1
        optimizer.step({"w": jnp.array([-1.0, 0.0, 1.0])})
        inner, alone = optax.adam(0.1), {"w": jnp.ones(3)}
        state = inner.init(alone)
        for grad in ([1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]):
            updates, state = inner.update({"w": jnp.array(grad)}, state)
            alone = optax.apply_updates(alone, updates)
        np.testing.assert_allclose(optimizer.params["w"], alone["w"], rtol=1e-5)

    run(train, consistency="local:every=100")
