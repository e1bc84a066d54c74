"""Parameters of a JAX loop: gradients go in by `step`, the values that hold come out by `params`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from ps.errors import ConfigError
from ps.jax.trees import Tree, arrays, named, trainable
from ps.types import Array
from ps.worker.client import Client
from ps.worker.pulling import PullFuture

if TYPE_CHECKING:
    import optax


class DistributedOptimizer:
    """Trains a pytree of parameters with all workers of the run.

        optimizer = ps.jax.DistributedOptimizer("adamw:lr=3e-4", params, client)
        for x, y in ps.data.shard((X, Y), client, batch=64, epochs=5):
            loss, grads = value_and_grad(optimizer.params, x, y)
            optimizer.step(grads, weight=len(x))

    optimizer: spelled as for `--optimizer`. Under bsp, ssp, quorum and async the servers step by it; under `local`
    (local SGD, DiLoCo) this worker does, by optax's twin of it, and every H steps the servers combine what all have
    moved. Or an optax transformation, for `local` only: nothing tells servers what is inside. Or None: the run says.

    params: dicts, lists, tuples, dataclasses, None, with float16, bfloat16, float32 or float64 arrays as leaves. The
    values of the lowest rank hold. A leaf is registered by its path, `dense/w`. Raises: ConfigError naming the leaf.
    """

    def __init__(self, optimizer: str | optax.GradientTransformation | None, params: Any, client: Client) -> None:
        cadence = client.config.model().cadence
        initial = trainable(params)
        self.client, self._tree = client, Tree(initial, jax.tree_util.tree_structure(params))
        self._steps_here = cadence.carries == "delta" and not (optimizer is None and cadence.local_lr)
        inner = _transformation(optimizer) if self._steps_here else None
        spec = "" if self._steps_here else _spelling(optimizer, client)
        client.register(arrays(initial), optimizer=spec)
        self._params = self._tree.of(client.pull())
        self._learns = {name for bundle in client.bundles for name in bundle}  # a rule of the run may have frozen some
        self._pending: PullFuture | None = None
        self.state: Any = None  # that of optax, under `local`
        if inner is not None:
            self.state = inner.init(self._params)
            self._update = _update(inner)
            client.register_state("ps.jax", lambda: arrays(named("state", self.state)), self._load_state)
        client.idle_clock = self._idle_clock

    @property
    def params(self) -> Any:
        """The values to compute with now, as a pytree of jax.Array; waits while they are under way.

        They are yours: no later step changes them. Raises: DeadlineError, StoppedError.
        """
        if self._pending is not None:
            self._params = self._tree.of(self._pending.result())
            self._pending = None
        return self._params

    def step(self, grads: Any, weight: float = 1.0) -> None:
        """Ends this worker's clock with these gradients of `params`; returns while the new values are under way.

        grads: a pytree like params. weight: examples behind them. A gradient with NaN or Inf is dropped, warned about
        by name and counted; under `local` it is an error, and the step has not been made.
        Raises: ConfigError naming the path at which the trees differ; DeadlineError, StoppedError.
        """
        given = self._tree.gradients(grads)
        if not self._steps_here:
            pushed = arrays({name: given[name] for name in self._tree.shapes if name in self._learns})
            self._pending = self.client.push_pull_later(pushed, weight)
            return
        before = self.params
        params, state = self._update(self._tree.of(given), self.state, before)
        stepped = {name: leaf for name, leaf in named("params", params).items() if name in self._learns}
        self.client.step_to(arrays(stepped), weight)
        self._params, self.state = self._tree.of(named("params", before) | stepped), state
        self._tick()

    def pull(self) -> Any:
        """`params` after a pull of their own: after a barrier, what all workers have made of them."""
        self._params, self._pending = self._tree.of(self.client.pull()), None
        return self._params

    def _tick(self) -> None:
        fetches = not self._steps_here or self.client.fetches_next
        self.client.tick()
        if fetches:
            self._pending = self.client.pull_later()

    def _idle_clock(self, _: float) -> None:
        """Closes a clock without a gradient; the parameters follow what the others do meanwhile."""
        self._tick()

    def _load_state(self, state: Mapping[str, Any]) -> None:
        own = arrays(named("state", self.state))
        if sorted(own) != sorted(state):
            raise ConfigError(f"expected {', '.join(own)}, got {', '.join(state)}")
        given = arrays({name: state[name] for name in own})
        for name, leaf in own.items():
            if (given[name].shape, given[name].dtype) != (leaf.shape, leaf.dtype):
                raise ConfigError(f"{name}: expected {_kind(leaf)}, got {_kind(given[name])}")
        leaves = [jax.numpy.array(one) for one in given.values()]  # copies: JAX may go on using an array's memory
        self.state = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(self.state), leaves)


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _update(inner: optax.GradientTransformation) -> Any:
    """One step of optax, compiled: (gradients, state, params) -> (params, state)."""
    import optax

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = inner.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(update)


def _transformation(optimizer: Any) -> optax.GradientTransformation:
    """What steps on this worker."""
    if isinstance(optimizer, str):
        from ps.jax.twins import optax_of

        return optax_of(optimizer)
    if not _is_transformation(optimizer):
        raise ConfigError(
            f"optimizer: expected a spelling such as 'adamw:lr=3e-4' or an optax transformation under --consistency "
            f"local, where workers step, got {optimizer!r}"
        )
    transformation: optax.GradientTransformation = optimizer
    return transformation


def _spelling(optimizer: Any, client: Client) -> str:
    """What is asked of the servers; nothing where the run says it."""
    if optimizer is None or isinstance(optimizer, str):
        return optimizer or ""
    got = "an optax transformation" if _is_transformation(optimizer) else repr(optimizer)
    raise ConfigError(
        f"optimizer: expected a spelling such as 'adamw:lr=3e-4' under --consistency {client.config.consistency}, "
        f"where servers step, got {got}; what optax has made cannot be read, and steps only under --consistency local"
    )


def _is_transformation(optimizer: Any) -> bool:
    return callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))
