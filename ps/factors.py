"""Sufficient factors: the gradient of a linear layer as two thin matrices, multiplied where the values are.

For y = W x the gradient is U^T V, U the errors of the outputs and V the inputs, a row per example: K (M + N) numbers
instead of M N (Chilimbi et al., OSDI 2014, section 3.3.2; Xie et al., UAI 2016). A server multiplies its rows only, in
the fixed order of `kernels.factors_add`.

The frame of a slice, rows r0 to r1 of its parameter: u8 FACTORS | u8 version = 1 | u16 flags = 0 | u32 K | u64 n
elements of the slice | f32 U[:, r0:r1], row by row. Bytes: 16 + 4 K (r1 - r0). V travels once per message, f32 row by
row, in a buffer behind those of the slices that all frames of the parameter share. Bytes: 4 K N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ps import kernels
from ps.compression.frame import HEADER, HEADER_BYTES, VERSION
from ps.errors import ConfigError, FrameError
from ps.keyspace import Parameter
from ps.messages import FACTORS
from ps.types import Array, Float, Float32, UInt8

SHARED_BYTES_MAX = 32 << 20  # of a V that is sent: transports cut off a peer whose buffer passes 64 MiB
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False, slots=True)
class Factors:
    """Stands for the gradient u^T v of a parameter of shape (M, N), in place of an array in `push` and `push_pull`.

    u: (K, M), the errors at the layer's outputs; v: (K, N), its inputs; arrays of real numbers, a row per example. The
    1 / K of a mean belongs into `u`: `ps.Factors(delta / len(x), x)`. K = 0 is a gradient of zeros.
    """

    u: Array
    v: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "u", np.asarray(self.u))
        object.__setattr__(self, "v", np.asarray(self.v))

    @property
    def k(self) -> int:
        """Rows of both factors."""
        return len(self.u)

    def fitted(self, parameter: Parameter) -> Factors:
        """The same in the parameter's master dtype. Raises: ConfigError naming parameter, expected shapes, got."""
        what, shape = f"push of {parameter.name!r}", parameter.shape
        if len(shape) != 2:
            raise ConfigError(f"{what}: expected an array, not factors: its shape is {shape}, without two axes")
        u, v = self.u, self.v
        fits = u.ndim == v.ndim == 2 and len(u) == len(v) and (u.shape[1], v.shape[1]) == shape
        if not fits:
            raise ConfigError(
                f"{what}: expected factors of shapes (K, {shape[0]}) and (K, {shape[1]}), got {u.shape} and {v.shape}"
            )
        for factor in (u, v):
            if factor.dtype.kind not in "fiu" and factor.dtype.name != "bfloat16":
                raise ConfigError(f"{what}: expected factors of real numbers, got dtype {factor.dtype}")
        with np.errstate(over="ignore"):  # what overflows is found as Inf
            return Factors(np.ascontiguousarray(u, parameter.master), np.ascontiguousarray(v, parameter.master))

    def product(self) -> Float:
        """u^T v, by BLAS: the bytes depend on the machine."""
        with np.errstate(all="ignore"):
            product: Float = self.u.T @ self.v
        return product

    @property
    def is_safe(self) -> bool:
        """No element of the product can overflow, which NaN and Inf cannot promise; a server is less strict."""
        return bound(self.u, self.v) <= _FLOAT32_MAX / 2


def bound(u_KM: Array, v_KN: Array) -> float:
    """No element of u^T v is larger in magnitude, rounding included; NaN or Inf in a factor give no finite bound."""
    u_K, v_K = (np.abs(factor).max(axis=1, initial=0).astype(np.float64) for factor in (u_KM, v_KN))
    with np.errstate(all="ignore"):
        return float(u_K @ v_K) * (1 + len(u_K) * 2**-22)


# ---- frames -------------------------------------------------------------------------------------------------------


def shared(factors: Factors) -> Float32:
    """A copy of V as it travels."""
    return np.array(factors.v, np.float32).reshape(-1)


def encode(factors: Factors, first: int, last: int) -> UInt8:
    """The frame of rows `first` to `last`."""
    k, rows, columns = factors.k, last - first, factors.v.shape[1]
    frame = np.empty(HEADER_BYTES + 4 * k * rows, np.uint8)
    frame[:HEADER_BYTES] = np.frombuffer(HEADER.pack(FACTORS, VERSION, 0, k, rows * columns), np.uint8)
    frame[HEADER_BYTES:].view(np.float32).reshape(k, rows)[:] = factors.u[:, first:last]
    return frame


def check(frame: UInt8, v: Array | None, rows: int, columns: int) -> None:
    """Raises: FrameError unless `decode_add` can take this frame of a slice of so many rows and columns."""
    if v is None:
        _refuse("shared buffer", "one", "none")
    if frame.nbytes < HEADER_BYTES:
        _refuse("length", f"at least {HEADER_BYTES}", frame.nbytes)
    number, version, flags, k, n = HEADER.unpack_from(frame.data)
    for field, expected, got in (
        ("codec", FACTORS, number),
        ("version", VERSION, version),
        ("flags", 0, flags),
        ("n", rows * columns, n),
    ):
        if expected != got:
            _refuse(field, expected, got)
    if k > columns:  # dense is shorter then; and each k costs time, however little arrives with it
        _refuse("K", f"at most {columns}", k)
    for field, expected, got in (
        ("length", HEADER_BYTES + 4 * k * rows, frame.nbytes),
        ("length of V", 4 * k * columns, v.nbytes),
    ):
        if expected != got:
            _refuse(field, expected, got)
    u_KM, v_KN = _factors(frame, v)
    if not (most := bound(u_KM, v_KN)) <= _FLOAT32_MAX:
        _refuse("U^T V", "finite", f"up to {most:g}")


def decode_add(frame: UInt8, v: Array, out_N: Float32, weight: float) -> None:
    """out += float32(weight) * U^T V of this slice; the frame has passed `check`."""
    kernels.factors_add(*_factors(frame, v), out_N, weight)


def _factors(frame: UInt8, v: Array) -> tuple[Float32, Float32]:
    k = int(HEADER.unpack_from(frame.data)[3])
    u, flat = frame[HEADER_BYTES:].view(np.float32), v.view(np.float32)
    return u.reshape(k, u.size // max(k, 1)), flat.reshape(k, flat.size // max(k, 1))


def _refuse(field: str, expected: Any, got: Any) -> NoReturn:
    raise FrameError(f"factors frame: {field}: expected {expected}, got {got}")
