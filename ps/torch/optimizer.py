"""The wrapper around a torch optimizer: gradients leave as they are computed, values come back as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ps.errors import ConfigError
from ps.keyspace import Options
from ps.torch.pulls import Pulls
from ps.torch.pushes import Pushes
from ps.torch.tensors import Mirror, plain_model
from ps.torch.twins import rate_of, twin_of
from ps.worker.client import Client
from ps.worker.pulling import PullFuture


class DistributedOptimizer(torch.optim.Optimizer):
    """Trains `model` with all workers of the run; wrap one's own optimizer in it and change nothing else.

    Under bsp, ssp, quorum and async the servers do what `optimizer` would (its class, betas, weight decay, its groups'
    rates): `step` ends the clock, and the new values are waited for by the modules that use them next. Under `local`
    (local SGD, DiLoCo) `optimizer` steps here, and every H steps the servers combine what all have moved.

    All workers start from the values of the lowest rank. Each gradient leaves during `backward` (Poseidon: Zhang et
    al., USENIX ATC 2017, section 3), so it must not be changed between `backward` and `step`; what would change it is
    said here instead, and then they leave in `step`:

    clip_norm: of the whole local gradient (Pascanu et al., ICML 2013). scaler: a torch.amp.GradScaler; a step whose
    gradients have overflowed contributes nothing; call scaler.update() as always. accumulate: calls of `backward` per
    step. Set `examples` before `backward` where workers take batches of different sizes: gradients are weighted by it.

    A scheduler may change the groups' rates, all by one factor: those of rank 0 hold for everybody. Buffers (running
    means of batch norm) stay each worker's own. Parameters without a gradient in some step contribute nothing to it.
    Raises: ConfigError for what has no twin on the servers, or does not fit the model of another worker.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        client: Client,
        *,
        clip_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.param_groups, self.state = optimizer.param_groups, optimizer.state  # one and the same, for schedulers
        self.inner, self.client = optimizer, client
        self._lr, self._scales = 0.0, [0.0]  # what the servers know: the largest rate, and the groups' parts of it
        self.examples = 1.0  # behind the gradients of this step, on this worker
        if accumulate < 1:
            raise ConfigError(f"accumulate: expected calls of backward per step >= 1, got {accumulate}")
        if clip_norm is not None and not clip_norm > 0:
            raise ConfigError(f"clip_norm: expected a norm > 0 or None, got {clip_norm}")
        _check(plain_model(model))
        self._cadence = client.config.model().cadence
        self._steps_here = self._cadence.carries == "delta"
        mirrors = _mirrors(plain_model(model))
        options, spec = self._settings(mirrors)
        arrays = {name: one.array for name, one in mirrors.items()}
        client.register(arrays, dict.fromkeys(mirrors, Options(frozen=True)) | options, optimizer=spec)
        client.pull(out=arrays)
        learns = {name for bundle in client.bundles for name in bundle}  # a rule of the run may have frozen some
        self._trained = {name: mirrors[name] for name in options if name in learns}
        for one in mirrors.values():
            one.load()
        self._pulls = Pulls(model, mirrors)
        self._pushes = Pushes(self._trained, client, accumulate, clip_norm, scaler)
        if not self._steps_here:
            self._pushes.hook(self, while_computing=clip_norm is None and scaler is None)
        client.idle_clock = self._idle_clock

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Ends this worker's clock. Returns what `closure` gives: the loss, as torch's optimizers do.

        Raises: ConfigError naming a parameter whose gradient has changed since it left; DeadlineError, StoppedError.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.synchronize()
        for mirror in self._trained.values():
            mirror.check()
        grads: dict[str, Any] = {}
        if self._steps_here:
            self._step_here()
        else:
            self.follow_rate()
            grads = self._pushes.rest(self)
        self._pulls.begin(self._end_clock(grads))
        return loss

    def _end_clock(self, grads: dict[str, Any]) -> PullFuture | None:
        """Pushes the last gradients of this clock; returns what it has asked for, if anything."""
        client, weight = self.client, float(self.examples)
        pulls = (client.clock + 1) % self._cadence.pull_every == 0
        if grads and pulls:
            return client.push_pull_later(grads, weight, out=self._pulls.arrays)
        if grads:
            client.push(grads, weight)
        client.tick()
        return client.pull_later(out=self._pulls.arrays) if pulls else None

    def _idle_clock(self, _: float) -> None:
        """Closes a clock without a gradient; the model follows what the others do meanwhile."""
        self.synchronize()
        self._pulls.begin(self._end_clock({}))
        self.synchronize()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within it `backward` only accumulates, as in torch's DistributedDataParallel; the next one outside pushes."""
        with self._pushes.silent():
            yield

    def synchronize(self) -> None:
        """Waits for all values that are under way: for who reads parameters before the next forward pass."""
        self._pulls.finish()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only before the optimizer is wrapped. Raises: ConfigError."""
        if hasattr(self, "client"):
            raise ConfigError("add_param_group: expected all parameters when the optimizer was wrapped, got some later")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """That of the wrapped optimizer: its groups; moments only under `local`, else the servers hold them."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the wrapped optimizer."""
        self.inner.load_state_dict(state_dict)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    # ---- inside -----------------------------------------------------------------------------------------------------

    def follow_rate(self) -> None:
        """A scheduler's rate holds from this clock on, for all workers; rank 0 says so."""
        lr = max(rate_of(group) for group in self.param_groups)
        if lr == self._lr:
            return
        for place, (group, scale) in enumerate(zip(self.param_groups, self._scales, strict=True)):
            if abs(rate_of(group) - lr * scale) > 1e-6 * lr * scale:
                raise ConfigError(
                    f"lr of group {place}: expected {lr * scale:g}, as all groups keep their ratio, got "
                    f"{rate_of(group):g}; schedule them by one factor"
                )
        if self.client.rank == 0:
            self.client.set_lr(lr)
        self._lr = lr

    def _settings(self, mirrors: dict[str, Mirror]) -> tuple[dict[str, Options], str]:
        """The options of each parameter that is trained, and what is asked of the servers."""
        spec, per_group = ("", [Options()] * len(self.param_groups)) if self._steps_here else twin_of(self.inner)
        self._scales = [options.lr_scale for options in per_group]
        self._lr = max(rate_of(group) for group in self.param_groups)
        given = {id(p): of for group, of in zip(self.param_groups, per_group, strict=True) for p in group["params"]}
        if given.keys() - {id(one.parameter) for one in mirrors.values()}:
            raise ConfigError("optimizer: expected only parameters of the model, got others, too; wrap the whole model")
        needing = {name: id(one.parameter) for name, one in mirrors.items() if one.parameter.requires_grad}
        options = {name: given[key] for name, key in needing.items() if key in given}
        if not options:
            raise ConfigError("optimizer: expected parameters of this model that require a gradient, got none")
        return options, spec

    def _step_here(self) -> None:
        if self._pushes.prepare(self):
            self.inner.step()
        values = {name: mirror.read() for name, mirror in self._trained.items()}
        self.client.step_to(values, float(self.examples))


def _check(model: torch.nn.Module) -> None:
    """Raises: ConfigError for wrappers that move gradients themselves."""
    kind = type(model).__name__
    if kind in ("DistributedDataParallel", "FullyShardedDataParallel") or hasattr(model, "unshard"):
        whole = "" if kind == "DistributedDataParallel" else ", unsharded: servers hold whole parameters"
        raise ConfigError(
            f"model: expected one that exchanges no gradients itself, got {kind}; pass the module inside{whole}"
        )


def _mirrors(model: torch.nn.Module) -> dict[str, Mirror]:
    parameters = dict(model.named_parameters())  # tied ones once
    if not parameters:
        raise ConfigError("model: expected parameters, got none")
    lazy = [name for name, p in parameters.items() if isinstance(p, torch.nn.parameter.UninitializedParameter)]
    if lazy:
        raise ConfigError(
            f"parameter {lazy[0]!r}: expected values, got a lazy one; run one batch through the model first"
        )
    return {name: Mirror(name, parameter) for name, parameter in parameters.items()}
