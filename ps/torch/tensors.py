"""Tensors as the arrays that a client takes and fills: the same memory on the CPU, a copy beside a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import ml_dtypes
import numpy as np
import torch

from ps.errors import ConfigError

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])
BUCKET_BYTES = 25 << 20  # of tensors that a collective moves together, as in torch's DistributedDataParallel


class Mirror:
    """The array of one parameter. On the CPU it is the parameter's memory; else `load` brings new values there."""

    def __init__(self, name: str, parameter: torch.nn.Parameter) -> None:
        self.name, self.parameter = name, parameter
        data = parameter.data
        if data.layout != torch.strided or data.is_complex():
            kind = str(data.layout if data.layout != torch.strided else data.dtype).removeprefix("torch.")
            raise ConfigError(f"parameter {name!r}: expected a dense tensor of real numbers, got {kind}")
        self.shares = data.device.type == "cpu" and data.is_contiguous()
        self._address = data.data_ptr()
        self.array = to_array(data if self.shares else torch.empty_like(data, device="cpu").contiguous())
        if not self.shares:
            self.read()

    def read(self) -> Array:
        """The array, with the parameter's values."""
        if not self.shares:
            from_array(self.array).copy_(self.parameter.data)
        return self.array

    def load(self) -> None:
        """The parameter takes over the array's values."""
        if not self.shares:
            self.parameter.data.copy_(from_array(self.array))

    def check(self) -> None:
        """Raises: ConfigError when the parameter has got other memory: nothing would reach it any more."""
        if self.shares and self.parameter.data_ptr() != self._address:
            raise ConfigError(
                f"parameter {self.name!r}: expected the tensor that the optimizer was made with, got another one; move "
                f"the model (.to, .half) before ps.torch.DistributedOptimizer, and fill parameters in place"
            )


def outside_graphs(function: F) -> F:
    """Called as it is where torch.compile has made a graph of what is around it."""
    return cast(F, torch.compiler.disable(function))


def plain_model(model: torch.nn.Module) -> torch.nn.Module:
    """The module that torch.compile was given; any other is itself."""
    return cast(torch.nn.Module, getattr(model, "_orig_mod", model))


def gradient(mirror: Mirror) -> Array:
    """The gradient as an array: its memory on the CPU, else a copy. Raises: ConfigError for a sparse one."""
    grad = mirror.parameter.grad
    assert grad is not None
    if grad.layout != torch.strided:
        raise ConfigError(
            f"gradient of {mirror.name!r}: expected a dense one, got {str(grad.layout).removeprefix('torch.')}; make "
            f"its module with sparse=False"
        )
    return to_array(grad.detach().to("cpu").contiguous())


@torch.no_grad()
def in_buckets(tensors: Iterable[torch.Tensor], exchange: Callable[[torch.Tensor], Any]) -> None:
    """`exchange` changes flat tensors in place, each some of these, of one dtype on one device, in this order."""
    kinds: dict[tuple[torch.dtype, torch.device], list[list[torch.Tensor]]] = {}
    for tensor in tensors:
        buckets = kinds.setdefault((tensor.dtype, tensor.device), [[]])
        if buckets[-1] and sum(one.nbytes for one in buckets[-1]) + tensor.nbytes > BUCKET_BYTES:
            buckets.append([])
        buckets[-1].append(tensor)
    for bucket in (one for buckets in kinds.values() for one in buckets):
        if len(bucket) == 1 and bucket[0].is_contiguous():
            exchange(bucket[0].view(-1))
            continue
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        exchange(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def to_array(tensor: torch.Tensor) -> Array:
    """The memory of a tensor on the CPU, as an array."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def from_array(array: Array) -> torch.Tensor:
    """The memory of an array, as a tensor."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
