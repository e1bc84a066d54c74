"""The narrow seam to native code: everything on the commit path that touches every element.

Each function works in place on the flat contiguous buffers it is given, float32 or float64, keeps nothing, takes no
lock and lets other threads run. These NumPy twins define the meaning; a native kernel of the same signature gives the
same bytes. To that end: only + - * / sqrt and exact operations (abs, sign, compare, copysign), each rounding once,
never contracted to a fused multiply-add, in the written order. Block length and slicing never change a bit.
"""

from __future__ import annotations

from ps.kernels.basic import all_finite, divide, power, scale_into, sum_of_squares, weighted_sum
from ps.kernels.compensation import compensate, compensate_adaptive
from ps.kernels.updates import adagrad, adam, add, ftrl, ftrl_start, momentum, nesterov, rmsprop, sgd
from ps.kernels.walk import blocks

__all__ = [
    "adagrad",
    "adam",
    "add",
    "all_finite",
    "blocks",
    "compensate",
    "compensate_adaptive",
    "divide",
    "ftrl",
    "ftrl_start",
    "momentum",
    "nesterov",
    "power",
    "rmsprop",
    "scale_into",
    "sgd",
    "sum_of_squares",
    "weighted_sum",
]
