"""Server optimizers once more, as formulas on whole parameters, every operation rounded in the parameter's dtype.

`memory` is the state by name, empty at first. The order of operations is the one that the kernels promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ps import kernels
from ps.types import Array

Memory = dict[str, Array]
Formula = Callable[[Array, Array, Memory, float, int, Any], Array]  # w, g, memory, lr, number of the step, options -> w


def sgd(w: Array, g: Array, memory: Memory, lr: float, number: int, options: Any) -> Array:
    """w - lr * g."""
    return np.asarray(w - g * w.dtype.type(lr))


def momentum(w: Array, g: Array, memory: Memory, lr: float, number: int, options: Any) -> Array:
    """v = decay * v + g; w - lr * v."""
    t = w.dtype.type
    memory["v"] = memory.get("v", np.zeros_like(w)) * t(options.decay) + g
    return np.asarray(w - memory["v"] * t(lr))


def nesterov(w: Array, g: Array, memory: Memory, lr: float, number: int, options: Any) -> Array:
    """v = decay * v + g; w - lr * (g + decay * v)."""
    t = w.dtype.type
    memory["v"] = memory.get("v", np.zeros_like(w)) * t(options.decay) + g
    return np.asarray(w - (memory["v"] * t(options.decay) + g) * t(lr))


def delayed_nesterov(w: Array, g: Array, memory: Memory, lr: float, number: int, options: Any) -> Array:
    """b = b + g; w - lr * g - (lr * share * period * decay) * v; at a period's end v = decay * v + b / period first."""
    t, zeros = w.dtype.type, np.zeros_like(w)
    b, v = memory.get("b", zeros) + g, memory.get("v", zeros)
    share, out = options.c, w - g * t(lr)
    if number % options.period == 0:
        v, b, share = v * t(options.decay) + b / t(options.period), zeros, 1 - options.c * options.period + options.c
    memory["b"], memory["v"] = b, v
    return np.asarray(out - v * t(lr * share * options.period * options.decay) if share else out)


def adagrad(w: Array, g: Array, memory: Memory, lr: float, number: int, options: Any) -> Array:
    """G = G + g * g; w - lr * g / (sqrt(G) + eps)."""
    t = w.dtype.type
    memory["G"] = memory.get("G", np.zeros_like(w)) + g * g
    return np.asarray(w - (g * t(lr)) / (np.sqrt(memory["G"]) + t(options.eps)))


def adam(w: Array, g: Array, memory: Memory, lr: float, number: int, options: Any) -> Array:
    """m, v as means of g and g * g; w - lr / c1 * m / (sqrt(v) / sqrt(c2) + eps), with cX = 1 - betaX ** number."""
    t = w.dtype.type
    b1, b2 = options.beta1, options.beta2
    m = memory.get("m", np.zeros_like(w)) * t(b1) + g * t(1.0 - b1)
    v = memory.get("v", np.zeros_like(w)) * t(b2) + (g * g) * t(1.0 - b2)
    memory["m"], memory["v"] = m, v
    c1, c2 = 1.0 - kernels.power(b1, number), 1.0 - kernels.power(b2, number)
    return np.asarray(w - (m * t(lr / c1)) / (np.sqrt(v) / t(math.sqrt(c2)) + t(options.eps)))


FORMULAS: dict[str, Formula] = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "delayed_nesterov": delayed_nesterov,
    "adagrad": adagrad,
    "adam": adam,
}
