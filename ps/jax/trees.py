"""Pytrees as the named arrays that a client takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ps.errors import ConfigError
from ps.types import Array

DTYPES = ("float16", "bfloat16", "float32", "float64")  # of what can be trained


def named(what: str, tree: Any) -> dict[str, Any]:
    """The leaves by the path that leads to them, `dense/w`, in the tree's order; None is no leaf.

    Raises: ConfigError when two leaves would have one name.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "params"  # a tree that is one leaf
        if name in leaves:
            raise ConfigError(f"{what}: expected one leaf {name!r}, got two; rename a key that has a / in it")
        leaves[name] = leaf
    return leaves


class Tree:
    """A pytree of parameters: its names, its structure, and where each leaf lives.

    Raises: ConfigError naming a leaf that cannot be trained.
    """

    def __init__(self, params: Any) -> None:
        self.leaves = {name: _checked(name, leaf) for name, leaf in named("params", params).items()}
        if not self.leaves:
            raise ConfigError("params: expected a pytree with arrays as leaves, got one without leaves")
        self._structure = jax.tree_util.tree_structure(params)

    def of(self, values: Mapping[str, Any]) -> Any:
        """The pytree with these leaves.

        On the CPU JAX may go on using the memory of a NumPy array instead of a copy: nobody may write to it later.
        """
        leaves = [_placed(values[name], like) for name, like in self.leaves.items()]
        return jax.tree_util.tree_unflatten(self._structure, leaves)

    def gradients(self, grads: Any) -> dict[str, Any]:
        """The leaves by name. Raises: ConfigError naming the path at which the trees differ."""
        given = named("gradients", grads)
        if absent := [name for name in self.leaves if name not in given]:
            raise ConfigError(f"gradient of {absent[0]!r}: expected an array, as params have one there, got none")
        if strange := [name for name in given if name not in self.leaves]:
            raise ConfigError(f"gradient of {strange[0]!r}: expected none, as params have no such leaf, got one")
        for name, like in self.leaves.items():
            if np.shape(given[name]) != like.shape:
                raise ConfigError(f"gradient of {name!r}: expected shape {like.shape}, got {np.shape(given[name])}")
        return given


def arrays(leaves: Mapping[str, Any]) -> dict[str, Array]:
    """As NumPy has them: the same memory on the CPU, once they are computed; a copy of what is on another device."""
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def _checked(name: str, leaf: Any) -> jax.Array:
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise ConfigError(
            f"parameter {name!r}: expected real numbers, got a PRNG key, which is not trained; keep keys out of "
            f"params, and fold client.rank into them (jax.random.fold_in)"
        )
    try:
        array = jnp.asarray(leaf)
    except TypeError:
        array = None
    if array is None or array.dtype.name not in DTYPES:
        got = type(leaf).__name__ if array is None else array.dtype.name
        raise ConfigError(
            f"parameter {name!r}: expected one of {', '.join(DTYPES)}, got {got}; keep what is not trained out of "
            f"params (equinox: eqx.partition(model, eqx.is_inexact_array))"
        )
    return array


def _placed(value: Any, like: jax.Array) -> jax.Array:
    """On the device, or spread over the devices, of what was there before."""
    placed: jax.Array = jax.device_put(value, like.sharding if like.committed else None)
    return placed
