"""Gradients of linear layers as the two factors that they are the product of, where the cost rule says that it pays.

M, N: outputs and inputs of a layer. K: rows that have gone through it in one step: batch times positions, of all calls.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ps.factors import Factors
from ps.torch.tensors import Mirror
from ps.worker.client import Client

log = logging.getLogger("ps")

PROBES = 4  # columns of a probe: one alone sees less than 1 % of a difference once in 125 times, four once in 5 x 10^7
TOLERANCE = 2.0**-18  # of |U| |V|: 64 roundings of float32; the largest seen, K = 4096 and all positive, are 16


class LinearFactors:
    """U and V of each `nn.Linear` whose weight may travel as factors, kept until its gradient leaves.

    The gradient that torch has computed decides: U^T V travels in its place only if it is the same to rounding. So
    whatever else reaches the weight, or changes its gradient (a use outside of the module, a tied embedding, a hook,
    the script), is found at once, and the weight travels dense from then on. Nothing is kept of calls for which dense
    takes less time.
    """

    def __init__(self, model: nn.Module, trained: dict[str, Mirror], client: Client) -> None:
        self.client = client
        self._rows: dict[str, list[tuple[torch.Tensor, torch.Tensor]] | None] = {}  # None: dense in this clock
        self._pays: dict[tuple[str, int], bool] = {}  # by name and K
        self._dense: set[str] = set()  # from now on
        self._random = torch.Generator().manual_seed(0)  # the script's own stays as it is
        of = {id(one.parameter): one for one in trained.values()}
        linear = [(module, of.get(id(module.weight))) for module in model.modules() if type(module) is nn.Linear]
        layers = [(module, mirror) for module, mirror in linear if mirror and self._may_travel(mirror)]
        for module, mirror in layers:
            module.register_forward_hook(self._on_forward(mirror), with_kwargs=True)
        if layers:
            client.measure_link()

    @torch.no_grad()
    def take(self, mirror: Mirror) -> Factors | None:
        """What may travel in place of this gradient; None: the gradient itself."""
        name, grad = mirror.name, mirror.parameter.grad
        rows = self._rows.pop(name, None)
        if not rows or grad is None:
            return None
        u_KM, v_KN = (torch.cat(parts) for parts in zip(*rows, strict=True))
        pays = self._pays[name, len(u_KM)] = self.client.factors_pay(name, len(u_KM))  # a warm-up may have ended
        if not pays:
            return None
        distance = self._distance(grad.detach(), u_KM, v_KN)
        if distance <= TOLERANCE:
            return Factors(u_KM.numpy(), v_KN.numpy())
        if math.isfinite(distance):
            self._dense.add(name)
            why = "as its gradient is not only that of its module's calls"
            log.info("worker %d: %r: dense, %s", self.client.rank, name, why)
        return None

    def clear(self) -> None:
        """A clock is over."""
        self._rows.clear()

    def _may_travel(self, mirror: Mirror) -> bool:
        weight = mirror.parameter
        return weight.dtype == torch.float32 and weight.device.type == "cpu" and self.client.factors_pay(mirror.name, 1)

    def _on_forward(self, mirror: Mirror) -> Callable[..., None]:
        name, weight = mirror.name, mirror.parameter

        def called(module: nn.Linear, args: Any, kwargs: Any, output: Any) -> None:
            if torch.compiler.is_compiling() or not torch.is_grad_enabled() or name in self._dense:
                return
            if module.weight is not weight:  # a copy of the model, or torch.func.functional_call
                return
            x = args[0] if args else kwargs["input"]
            if _is_plain(x, output) and self._may_pay(name, x.shape[:-1].numel()):
                output.register_hook(partial(self._on_backward, name, x.detach()))
            else:
                self._rows[name] = None

        return called

    def _on_backward(self, name: str, x: torch.Tensor, grad: torch.Tensor) -> None:
        rows = self._rows.setdefault(name, [])
        if rows is None:
            return
        rows.append((grad.detach().reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])))
        if not self._may_pay(name, sum(len(u) for u, _ in rows)):
            self._rows[name] = None

    def _may_pay(self, name: str, k: int) -> bool:
        if (name, k) not in self._pays:
            self._pays[name, k] = self.client.factors_pay(name, k)
        return self._pays[name, k]

    def _distance(self, grad_MN: torch.Tensor, u_KM: torch.Tensor, v_KN: torch.Tensor) -> float:
        """About |G - U^T V| / (|U| |V|), in 2-norms, from the products with random columns (Freivalds, 1977)."""
        probe_NP = torch.randn(grad_MN.shape[1], PROBES, generator=self._random)
        off_MP = grad_MN @ probe_NP - u_KM.T @ (v_KN @ probe_NP)
        size = float(u_KM.norm()) * float(v_KN.norm())
        off = float(off_MP.norm()) / math.sqrt(PROBES)
        return off / size if size else off


def _is_plain(x: Any, output: Any) -> bool:
    """Not under autocast, nor replaced by a hook of the script; and a gradient will reach it."""
    tensors = isinstance(x, torch.Tensor) and isinstance(output, torch.Tensor) and output.requires_grad
    return tensors and x.dtype == output.dtype == torch.float32 and x.shape[:-1] == output.shape[:-1]
