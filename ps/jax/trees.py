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


def trainable(params: Any) -> dict[str, jax.Array]:
    """The leaves by name. Raises: ConfigError naming one that cannot be trained."""
    leaves = {name: _checked(name, leaf) for name, leaf in named("params", params).items()}
    if not leaves:
        raise ConfigError("params: expected a pytree with arrays as leaves, got one without leaves")
    return leaves


class Tree:
    """What all values of a pytree have in common: names and shapes of its leaves, its structure, and its devices."""

    def __init__(self, leaves: Mapping[str, jax.Array], structure: Any) -> None:
        self.shapes = {name: leaf.shape for name, leaf in leaves.items()}
        self._structure = structure
        self._shardings = {name: leaf.sharding for name, leaf in leaves.items() if leaf.committed}

    def of(self, values: Mapping[str, Any]) -> Any:
        """The pytree with these leaves, on the devices that it was given on.

        On the CPU JAX may go on using the memory of a NumPy array instead of a copy: nobody may write to it later.
        """
        placed = jax.device_put({name: values[name] for name in self.shapes if name not in self._shardings})
        placed |= jax.device_put({name: values[name] for name in self._shardings}, self._shardings)
        return jax.tree_util.tree_unflatten(self._structure, [placed[name] for name in self.shapes])

    def gradients(self, grads: Any) -> dict[str, Any]:
        """The leaves by name. Raises: ConfigError naming the path at which the trees differ."""
        given = named("gradients", grads)
        if absent := [name for name in self.shapes if name not in given]:
            raise ConfigError(f"gradient of {absent[0]!r}: expected an array, as params have one there, got none")
        if strange := [name for name in given if name not in self.shapes]:
            raise ConfigError(f"gradient of {strange[0]!r}: expected none, as params have no such leaf, got one")
        for name, shape in self.shapes.items():
            if np.shape(given[name]) != shape:
                raise ConfigError(f"gradient of {name!r}: expected shape {shape}, got {np.shape(given[name])}")
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
