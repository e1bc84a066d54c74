"""Gradients on their way out: each leaves once `backward` has it, with others up to a few MiB in one message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from ps.errors import ConfigError
from ps.torch.factors import LinearFactors
from ps.torch.tensors import Mirror, gradient, outside_graphs
from ps.worker.client import Client

# Of gradients that wait, and of what travels of them: below, a message costs more time than its overlap saves.
DENSE_BYTES, WIRE_BYTES = 4 << 20, 256 << 10


class Rates(Protocol):
    """What says the learning rate before anything leaves."""

    examples: float

    def follow_rate(self, client: Client) -> None: ...


class Pushes:
    """What has been computed, and what has left, of one clock."""

    def __init__(
        self,
        trained: dict[str, Mirror],
        bundles: Iterable[Iterable[str]],
        accumulate: int,
        clip_norm: float | None,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self.trained = trained
        self.accumulate, self.clip_norm, self.scaler = accumulate, clip_norm, scaler
        self._together = {name: tuple(bundle) for bundle in bundles for name in bundle if name in trained}
        self._computed: dict[str, int] = {}  # calls of backward that have reached it
        self._bytes: dict[tuple[str, ...], tuple[int, int]] = {}  # of a bundle: its gradients, and what travels of them
        self._ready: list[str] = []  # waits for more, to leave with it
        self._ready_bytes, self._ready_wire_bytes = 0, 0
        self._left: dict[str, tuple[int, int]] = {}  # version and address of the gradient that has left
        self._is_silent = False
        self._factors: LinearFactors | None = None

    def hook(self, rates: Rates, client: Client, linear_of: torch.nn.Module | None) -> None:
        """From now on gradients leave as they are computed; those of this model's linear layers as factors where that
        takes less time."""
        for bundle in self._together.values():
            self._bytes[bundle] = sum(self.trained[name].array.nbytes for name in bundle), client.push_bytes(bundle)
        for name, mirror in self.trained.items():
            mirror.parameter.register_post_accumulate_grad_hook(self._hook(name, rates, client))
        if linear_of is not None:
            self._factors = LinearFactors(linear_of, self.trained, client)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Nothing leaves meanwhile, and nothing counts."""
        before, self._is_silent = self._is_silent, True
        try:
            yield
        finally:
            self._is_silent = before

    def prepare(self, optimizer: torch.optim.Optimizer) -> bool:
        """Unscales and clips all gradients. False when they have overflowed: the step contributes nothing."""
        if self.scaler is not None and self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)
            if sum(float(found) for found in self.scaler._found_inf_per_device(optimizer).values()):
                return False
        if self.clip_norm is not None:
            parameters = [mirror.parameter for mirror in self.trained.values()]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        return True

    def rest(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """The parameters whose gradients of this clock have not left yet.

        Raises: ConfigError naming a gradient that was changed after it had left.
        """
        rest: set[str] = set()
        for name, left in self._left.items():
            if _state(self.trained[name]) != left:
                raise ConfigError(
                    f"gradient of {name!r}: expected it unchanged since backward, when it left, got another one; clip "
                    f"and unscale by arguments of ps.torch.DistributedOptimizer (clip_norm, scaler, accumulate)"
                )
        if self.prepare(optimizer):
            rest = {name for name in self.trained if name not in self._left and _has_gradient(self.trained[name])}
            rest |= {other for name in rest for other in self._together[name]}
        return [name for name in self.trained if name in rest]

    def end_clock(self) -> None:
        """All of this clock has left."""
        self._computed.clear()
        self._forget_ready()
        self._left.clear()
        if self._factors is not None:
            self._factors.clear()

    def gradients(self, names: Iterable[str]) -> dict[str, Any]:
        """What travels of these."""
        return {name: self._gradient(self.trained[name]) for name in names}

    def _gradient(self, mirror: Mirror) -> Any:
        """Zeros where there is none: what shares a slice with others travels with them."""
        if self._factors is not None and (factors := self._factors.take(mirror)):
            return factors
        return gradient(mirror) if _has_gradient(mirror) else np.zeros_like(mirror.array)

    def _hook(self, name: str, rates: Rates, client: Client) -> Callable[[torch.Tensor], None]:
        @outside_graphs
        def computed(_: torch.Tensor) -> None:
            if not self._is_silent:
                self._on_computed(name, rates, client)

        return computed

    def _on_computed(self, name: str, rates: Rates, client: Client) -> None:
        count = self._computed[name] = self._computed.get(name, 0) + 1
        if count > self.accumulate:
            raise ConfigError(
                f"gradient of {name!r}: expected {self.accumulate} calls of backward per step, got one more; say "
                f"accumulate=, or use no_sync() around all but the last"
            )
        bundle = self._together[name]
        if any(self._computed.get(other, 0) < self.accumulate for other in bundle):
            return
        nbytes, wire_bytes = self._bytes[bundle]
        self._ready += bundle
        self._ready_bytes += nbytes
        self._ready_wire_bytes += wire_bytes
        if self._ready_bytes >= DENSE_BYTES and self._ready_wire_bytes >= WIRE_BYTES:
            rates.follow_rate(client)
            client.push(self.gradients(self._ready), weight=rates.examples)
            self._left.update((name, _state(self.trained[name])) for name in self._ready)
            self._forget_ready()

    def _forget_ready(self) -> None:
        self._ready = []
        self._ready_bytes = self._ready_wire_bytes = 0


def _has_gradient(mirror: Mirror) -> bool:
    return mirror.parameter.grad is not None


def _state(mirror: Mirror) -> tuple[int, int]:
    grad = mirror.parameter.grad
    return (-1, -1) if grad is None else (grad._version, grad.data_ptr())
