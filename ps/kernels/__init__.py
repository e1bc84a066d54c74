"""The narrow seam to native code: everything on the commit path that touches every element.

Each function works in place on the flat contiguous buffers it is given, float32 or float64, keeps nothing, takes no
lock and lets other threads run. NumPy twins define the meaning; a native kernel of the same signature gives the same
bytes. To that end: only + - * / sqrt and exact operations (abs, sign, compare, copysign), each rounding once, never
contracted to a fused multiply-add, in the written order. Block length and slicing never change a bit.
"""

from __future__ import annotations

from ps.kernels import basic, compensation, updates
from ps.kernels.basic import power, sum_of_squares
from ps.kernels.dispatch import IN_USE, available, kernel
from ps.kernels.walk import blocks

all_finite = kernel(basic.all_finite)
copy_finite = kernel(basic.copy_finite)
weighted_sum = kernel(basic.weighted_sum)
scale_into = kernel(basic.scale_into)
divide = kernel(basic.divide)
compensate = kernel(compensation.compensate)
compensate_adaptive = kernel(compensation.compensate_adaptive)
add = kernel(updates.add)
sgd = kernel(updates.sgd)
momentum = kernel(updates.momentum)
nesterov = kernel(updates.nesterov)
adagrad = kernel(updates.adagrad)
rmsprop = kernel(updates.rmsprop)
adam = kernel(updates.adam)
ftrl_start = kernel(updates.ftrl_start)
ftrl = kernel(updates.ftrl)

__all__ = [
    "IN_USE",
    "available",
    "adagrad",
    "adam",
    "add",
    "all_finite",
    "blocks",
    "compensate",
    "compensate_adaptive",
    "copy_finite",
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
