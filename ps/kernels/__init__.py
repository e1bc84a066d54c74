"""The narrow seam to native code: everything on the commit path that touches every element.

Each function works in place on the flat contiguous buffers it is given, float32 or float64, keeps nothing, takes no
lock and lets other threads run. NumPy twins define the meaning; a native kernel of the same signature gives the same
bytes. To that end: only + - * / sqrt and exact operations (abs, sign, compare, copysign), each rounding once, never
contracted to a fused multiply-add, in the written order. Block length and slicing never change a bit. Kernels of
codecs take float32 and flat bytes, which may start anywhere; their sums are `groups.lane_sums`.
"""

from __future__ import annotations

from ps.kernels import basic, compensation, factors, floats, lowrank, onebit, quantise, sparse, threshold, updates
from ps.kernels.basic import power, sum_of_squares
from ps.kernels.dispatch import IN_USE, available, kernel
from ps.kernels.floats import HALF_BITS_MAX, HALF_BLOCK, SCALE_BITS_MAX, SCALE_BITS_MIN, split_halves
from ps.kernels.groups import FLOAT32_MAX
from ps.kernels.lowrank import factor, product_add, product_bound
from ps.kernels.onebit import words
from ps.kernels.quantise import INT8_LEVELS, bits_of_levels, random_key, unit_max
from ps.kernels.walk import blocks

all_finite = kernel(basic.all_finite)
weighted_sum = kernel(basic.weighted_sum)
scale_into = kernel(basic.scale_into)
divide = kernel(basic.divide)
compensate = kernel(compensation.compensate)
compensate_adaptive = kernel(compensation.compensate_adaptive)
factors_add = kernel(factors.factors_add)
add = kernel(updates.add)
sgd = kernel(updates.sgd)
momentum = kernel(updates.momentum)
nesterov = kernel(updates.nesterov)
adagrad = kernel(updates.adagrad)
rmsprop = kernel(updates.rmsprop)
adam = kernel(updates.adam)
ftrl_start = kernel(updates.ftrl_start)
ftrl = kernel(updates.ftrl)

onebit_encode = kernel(onebit.onebit_encode)
onebit_decode_add = kernel(onebit.onebit_decode_add)
onebit_mean = kernel(onebit.onebit_mean)
onebit_move = kernel(onebit.onebit_move)
onebit_finite = kernel(onebit.onebit_finite)
sign_encode = kernel(onebit.sign_encode)
sign_decode_add = kernel(onebit.sign_decode_add)
int8_encode = kernel(quantise.int8_encode)
int8_decode_add = kernel(quantise.int8_decode_add)
qsgd_encode = kernel(quantise.qsgd_encode)
qsgd_decode_add = kernel(quantise.qsgd_decode_add)
qsgd_code_max = kernel(quantise.qsgd_code_max)
half_encode = kernel(floats.half_encode)
half_decode_add = kernel(floats.half_decode_add)
bfloat_encode = kernel(floats.bfloat_encode)
bfloat_decode_add = kernel(floats.bfloat_decode_add)
bits_max = kernel(floats.bits_max)
threshold_count = kernel(threshold.threshold_count)
threshold_sparse = kernel(threshold.threshold_sparse)
threshold_dense = kernel(threshold.threshold_dense)
threshold_sparse_add = kernel(threshold.threshold_sparse_add)
threshold_dense_add = kernel(threshold.threshold_dense_add)
threshold_dense_fault = kernel(threshold.threshold_dense_fault)
threshold_clip = kernel(threshold.threshold_clip)
accumulate = kernel(sparse.accumulate)
momentum_accumulate = kernel(sparse.momentum_accumulate)
largest = kernel(sparse.largest)
gather = kernel(sparse.gather)
clear = kernel(sparse.clear)
scatter_add = kernel(sparse.scatter_add)
bitmap_encode = kernel(sparse.bitmap_encode)
bitmap_decode = kernel(sparse.bitmap_decode)
bitmap_count = kernel(sparse.bitmap_count)
varint_bytes = kernel(sparse.varint_bytes)
varint_encode = kernel(sparse.varint_encode)
varint_decode = kernel(sparse.varint_decode)
varint_fault = kernel(sparse.varint_fault)
scaled_add = kernel(lowrank.scaled_add)

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
    "divide",
    "factors_add",
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
    "FLOAT32_MAX",
    "HALF_BITS_MAX",
    "HALF_BLOCK",
    "INT8_LEVELS",
    "SCALE_BITS_MAX",
    "SCALE_BITS_MIN",
    "onebit_encode",
    "onebit_decode_add",
    "onebit_mean",
    "onebit_move",
    "onebit_finite",
    "sign_encode",
    "sign_decode_add",
    "int8_encode",
    "int8_decode_add",
    "qsgd_encode",
    "qsgd_decode_add",
    "qsgd_code_max",
    "half_encode",
    "half_decode_add",
    "bfloat_encode",
    "bfloat_decode_add",
    "bits_max",
    "threshold_count",
    "threshold_sparse",
    "threshold_dense",
    "threshold_sparse_add",
    "threshold_dense_add",
    "threshold_dense_fault",
    "threshold_clip",
    "accumulate",
    "momentum_accumulate",
    "largest",
    "gather",
    "clear",
    "scatter_add",
    "bitmap_encode",
    "bitmap_decode",
    "bitmap_count",
    "varint_bytes",
    "varint_encode",
    "varint_decode",
    "varint_fault",
    "scaled_add",
    "words",
    "bits_of_levels",
    "random_key",
    "unit_max",
    "split_halves",
    "factor",
    "product_add",
    "product_bound",
]
