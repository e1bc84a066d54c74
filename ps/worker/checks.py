"""What callers of a client hand over: taken as it is, made fit, or refused in words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ps import kernels
from ps.errors import ConfigError
from ps.factors import Factors
from ps.keyspace import Keyspace, Parameter, numpy_dtype
from ps.types import Array

if TYPE_CHECKING:
    from ps.worker.runtime import Worker

log = logging.getLogger("ps")

Gradients: TypeAlias = Mapping[str, Array | Factors]  # by name of the parameter

WEIGHT_MAX = 1e12  # and 1 / WEIGHT_MAX at least: float32 holds sums of weights, and their products with gradients


def checked_grads(worker: Worker, grads: Gradients) -> dict[str, Array | Factors]:
    """Each in its parameter's master dtype; factors only where they are to travel. Raises: ConfigError."""
    keyspace = worker.keyspace
    ids = keyspace.slice_ids(checked_mapping("push", grads))
    arrays: dict[str, Array | Factors] = {}
    for name, grad in grads.items():
        parameter = keyspace.parameters[keyspace.index_of[name]]
        if not parameter.trainable:
            what = "is frozen" if parameter.options.frozen else f"has dtype {parameter.dtype}"
            raise ConfigError(
                f"push of {name!r}: expected a trainable parameter, got one that {what}, which is stored and "
                f"pulled only; leave it out"
            )
        arrays[name] = grad.fitted(parameter) if isinstance(grad, Factors) else _fitted(grad, parameter)
    for slice_id in ids:
        members = [keyspace.parameters[piece.parameter].name for piece in keyspace.slices[slice_id].pieces]
        absent = [name for name in members if name not in arrays]
        if absent:
            raise ConfigError(
                f"push of {next(m for m in members if m in arrays)!r}: it travels in one slice with "
                f"{', '.join(map(repr, absent[:4]))}; push them together (zeros where there is no gradient)"
            )
    for name, grad in arrays.items():
        if isinstance(grad, Factors):
            arrays[name] = worker.schemes.chosen(name, grad)
    return arrays


def nonfinite(worker: Worker, grads: Gradients) -> str:
    """Names of gradients with NaN or Inf, for which the push is dropped: counted and warned about here.

    Factors that are to travel are known to be finite.
    """
    arrays = {name: grad for name, grad in grads.items() if not isinstance(grad, Factors)}
    if bad := ", ".join(name for name, array in arrays.items() if not kernels.all_finite(array.reshape(-1))):
        worker.metrics.count("nonfinite_pushes")
        log.warning("worker %d: push at clock %d dropped: NaN or Inf in %s", worker.rank, worker.session.clock, bad)
    return bad


def checked_out(keyspace: Keyspace, out: Mapping[str, Array] | None, wanted: list[str]) -> Mapping[str, Array] | None:
    """Arrays that values can be written to. Raises: ConfigError."""
    names = set(wanted)
    for name, array in checked_mapping("pull: out", {} if out is None else out).items():
        if name not in names:
            raise ConfigError(f"pull: out: expected names among the pulled ones, got {name!r}")
        if not isinstance(array, np.ndarray):
            raise ConfigError(f"pull: out[{name!r}]: expected a numpy array, got {type(array).__name__}")
        parameter = keyspace.parameters[keyspace.index_of[name]]
        # by the dtype first: a name takes microseconds
        fits = array.dtype == numpy_dtype(parameter.dtype) or array.dtype.name == parameter.dtype
        if array.shape != parameter.shape or not fits:
            got = f"{tuple(array.shape)} {array.dtype.name}"
            raise ConfigError(f"pull: out[{name!r}]: expected shape {parameter.shape} {parameter.dtype}, got {got}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            got = "a read-only one" if array.flags.c_contiguous else f"strides {array.strides}"
            raise ConfigError(f"pull: out[{name!r}]: expected a writeable C-contiguous array, got {got}")
    return out


def checked_mapping(call: str, value: Any) -> Mapping[str, Any]:
    """Raises: ConfigError unless it is one."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{call}: expected a dict name -> array, got {type(value).__name__}")
    return value


def checked_weight(weight: float) -> float:
    """Examples behind a push. Raises: ConfigError."""
    examples = checked_number("push: weight", weight)
    if not 1 / WEIGHT_MAX <= examples <= WEIGHT_MAX:
        raise ConfigError(
            f"push: weight: expected a number of examples > 0 (at most {WEIGHT_MAX:g}), got {examples:g}; a clock "
            f"without a push contributes nothing: only tick()"
        )
    return examples


def checked_number(what: str, value: Any) -> float:
    """Raises: ConfigError unless it is one."""
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{what}: expected a number, got {value!r}") from None


def _fitted(grad: Any, parameter: Parameter) -> Array:
    """The gradient as a contiguous array of the master dtype."""
    array, what = np.asarray(grad), f"push of {parameter.name!r}"
    if tuple(array.shape) != parameter.shape:
        raise ConfigError(f"{what}: expected shape {parameter.shape}, got {tuple(array.shape)}")
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise ConfigError(f"{what}: expected an array of real numbers, got dtype {array.dtype}")
    if array.dtype != parameter.master or not array.flags.c_contiguous:
        with np.errstate(over="ignore"):  # what overflows is found as Inf
            array = np.ascontiguousarray(array, parameter.master).reshape(parameter.shape)
    return array
