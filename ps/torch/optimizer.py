"""The wrapper around a torch optimizer: gradients leave as they are computed, values come back as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ps.errors import ConfigError
from ps.keyspace import Options
from ps.torch.groups import About, member
from ps.torch.pulls import Pulls
from ps.torch.pushes import Pushes
from ps.torch.state import (
    Stateful,
    load_object_state,
    load_optimizer_state,
    load_random_state,
    object_state,
    optimizer_state,
    random_state,
)
from ps.torch.tensors import Mirror, plain_model
from ps.torch.twins import rate_of, twin_of
from ps.worker.client import Client
from ps.worker.pulling import PullFuture


class DistributedOptimizer(torch.optim.Optimizer):
    """Trains `model` with all workers of the run; wrap one's own optimizer in it and change nothing else.

    Under bsp, ssp, quorum and async the servers do what `optimizer` would (its class, betas, weight decay, its groups'
    rates): `step` ends the clock, and the new values are waited for by the modules that use them next. Under `local`
    (local SGD, DiLoCo), `async_local` and `easgd` `optimizer` steps here, and every H steps the servers hear of it.

    All workers start from the values of the lowest rank. Each gradient leaves during `backward` (Poseidon: Zhang et
    al., USENIX ATC 2017, section 3), so it must not be changed between `backward` and `step`; what would change it is
    said here instead, and then they leave in `step`:

    clip_norm: of the whole local gradient (Pascanu et al., ICML 2013). scaler: a torch.amp.GradScaler; a step whose
    gradients have overflowed contributes nothing; call scaler.update() as always. accumulate: calls of `backward` per
    step. Set `examples` before `backward` where workers take batches of different sizes: gradients are weighted by it.

    process_group: all of its ranks are this one worker. Rank 0 has the client, for the others it is None. Gradients
    are averaged over the ranks, weighted by `examples`, before they are unscaled and clipped; they leave in `step`,
    which each rank calls equally often, and which returns once all have the new values.

    A scheduler may change the groups' rates, all by one factor: those of rank 0 hold for everybody. Buffers (running
    means of batch norm) stay each worker's own. Parameters without a gradient in some step contribute nothing to it.
    Raises: ConfigError for what has no twin on the servers, or does not fit the model of another worker.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        client: Client | None,
        *,
        process_group: torch.distributed.ProcessGroup | None = None,
        clip_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.param_groups, self.state = optimizer.param_groups, optimizer.state  # one and the same, for schedulers
        self.inner, self.client = optimizer, client
        self._lr, self._scales = 0.0, [0.0]  # what the servers know: the largest rate, and the groups' parts of it
        self._schedules, self._leads = False, False  # the rate has changed since then; this worker tells the servers
        self._followed = -1  # the clock at which the rate was last looked at
        self._told = [{k: group[k] for k in optimizer.defaults if k != "lr"} for group in optimizer.param_groups]
        self.examples = 1.0  # behind the gradients of this step, on this worker
        if accumulate < 1:
            raise ConfigError(f"accumulate: expected calls of backward per step >= 1, got {accumulate}")
        if clip_norm is not None and not clip_norm > 0:
            raise ConfigError(f"clip_norm: expected a norm > 0 or None, got {clip_norm}")
        _check(plain_model(model))
        mirrors = _mirrors(plain_model(model))
        self._worker = member(client, process_group, [*mirrors.values()])
        self._steps_here = self._worker.ask(lambda client: client.config.model().cadence.carries) == "delta"
        options, spec = self._settings(mirrors)
        bundles = self._worker.ask(lambda client: _joined(client, mirrors, options, spec))
        self._worker.load(mirrors.values())
        learns = {name for bundle in bundles for name in bundle}  # a rule of the run may have frozen some
        self._trained = {name: mirrors[name] for name in options if name in learns}
        self._pulls = Pulls(model, mirrors)
        self._pushes = Pushes(self._trained, bundles, accumulate, clip_norm, scaler)
        if not self._steps_here and clip_norm is None and scaler is None:
            linear_of = model if plain_model(model) is model else None  # torch.compile would trace what keeps factors
            self._worker.while_computing(lambda client: self._pushes.hook(self, client, linear_of))
        if client is not None and process_group is None:
            client.idle_clock = self._idle_clock
        if client is not None:
            self._register(client, {id(one.parameter): name for name, one in mirrors.items()}, scaler)

    @property
    def worker(self) -> About:
        """This worker's rank, clock and should_stop, and the run's size, as the client says; on all ranks of a group.

        There, as of the last step: so all ranks leave their loops together.
        """
        return self._worker.about

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
        weight = self._worker.reduce([mirror.parameter for mirror in self._trained.values()], float(self.examples))
        names = self._step_here() if self._steps_here else self._pushes.rest(self)
        pending = self._worker.end_clock(lambda client: self._end_clock(client, names, weight), self._trained.values())
        self._pushes.end_clock()
        self._pulls.begin(pending)
        return loss

    def _step_here(self) -> list[str]:
        """Nothing is left to push."""
        if self._pushes.prepare(self):
            self.inner.step()
        return []

    def _end_clock(self, client: Client, names: list[str], weight: float) -> PullFuture | None:
        """Pushes the last gradients of this clock, or what has moved; returns what it has asked for, if anything."""
        if self._steps_here:
            client.step_to({name: mirror.read() for name, mirror in self._trained.items()}, weight)
        else:
            self.follow_rate(client)
        grads = self._pushes.gradients(names)
        if grads and client.fetches_next:
            return client.push_pull_later(grads, weight, out=self._pulls.arrays)
        if grads:
            client.push(grads, weight)
        return self._tick(client)

    def _tick(self, client: Client) -> PullFuture | None:
        pulls = client.fetches_next
        client.tick()
        return client.pull_later(out=self._pulls.arrays) if pulls else None

    def _idle_clock(self, _: float) -> None:
        """Closes a clock without a gradient; the model follows what the others do meanwhile."""
        self.synchronize()
        self._pulls.begin(self._worker.end_clock(self._tick, self._trained.values()))

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within it `backward` only accumulates, as in torch's DistributedDataParallel; the next one outside pushes."""
        with self._pushes.silent():
            yield

    def synchronize(self) -> None:
        """Waits for all values that are under way: for who reads parameters before the next forward pass."""
        self._pulls.finish()

    def register_state(self, **owners: Stateful) -> None:
        """Adds what has `state_dict` and `load_state_dict` to this worker's state, `client.state()`, by its name here.

        A method, as a scheduler is made of this optimizer. Nothing on ranks above 0 of a process_group.
        Raises: ConfigError.
        """
        for name, owner in owners.items():
            if not (hasattr(owner, "state_dict") and hasattr(owner, "load_state_dict")):
                raise ConfigError(
                    f"register_state: {name}: expected state_dict and load_state_dict, got a {type(owner).__name__} "
                    f"without; client.register_state takes two functions"
                )
            if self.client is not None:
                self.client.register_state(name, partial(object_state, owner, name), partial(load_object_state, owner))

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

    def _register(self, client: Client, names: dict[int, str], scaler: torch.amp.GradScaler | None) -> None:
        """What a checkpoint of this worker needs. names: of the parameters, by id."""
        devices = [parameter.device for group in self.param_groups for parameter in group["params"]]
        get, load = partial(optimizer_state, self, names), partial(self._load, client, names)
        client.register_state("ps.torch.optimizer", get, load)
        client.register_state("ps.torch.random", partial(random_state, devices), load_random_state)
        if scaler is not None:
            self.register_state(**{"ps.torch.scaler": scaler})

    def _load(self, client: Client, names: dict[int, str], state: Any) -> None:
        """Each worker tells the servers the rate that it goes on with, and hears it from them: a residual is scaled by
        what the last pull has said."""
        load_optimizer_state(self, names, state)
        if self._steps_here:
            return
        lr = max(rate_of(group) for group in self.param_groups)
        self._check_groups(lr)
        if lr != self._lr:
            self._lr, self._schedules = lr, True
            client.set_lr(lr)
            client.pull(out=self._pulls.arrays)

    def follow_rate(self, client: Client) -> None:
        """A scheduler's rate holds from this clock on, for all workers.

        Rank 0 says so; another one, too, once the servers do not know what held a clock ago: rank 0 may have left.
        """
        lr = max(rate_of(group) for group in self.param_groups)
        self._check_groups(lr)
        before, self._lr = self._lr, lr
        is_late = self._schedules and client.clock > self._followed and abs(client.lr - before) > 1e-6 * before
        self._schedules |= lr != before
        self._followed = client.clock
        self._leads |= client.rank == 0 or is_late
        if self._leads and (is_late or lr != before):
            client.set_lr(lr)

    def _check_groups(self, lr: float) -> None:
        """Raises: ConfigError for what was changed and cannot be followed."""
        for place, (group, scale) in enumerate(zip(self.param_groups, self._scales, strict=True)):
            if abs(rate_of(group) - lr * scale) > 1e-6 * lr * scale:
                raise ConfigError(
                    f"lr of group {place}: expected {lr * scale:g}, as all groups keep their ratio, got "
                    f"{rate_of(group):g}; schedule them by one factor"
                )
            for option, told in self._told[place].items():
                if group[option] != told:
                    raise ConfigError(
                        f"{option} of group {place}: expected {told}, as the servers were told, got {group[option]}; "
                        f"only lr can be scheduled (OneCycleLR: cycle_momentum=False)"
                    )

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


def _joined(
    client: Client, mirrors: dict[str, Mirror], options: dict[str, Options], spec: str
) -> list[tuple[str, ...]]:
    """Registers all and pulls what holds; returns those together that have to be pushed together."""
    arrays = {name: one.array for name, one in mirrors.items()}
    client.register(arrays, dict.fromkeys(mirrors, Options(frozen=True)) | options, optimizer=spec)
    client.pull(out=arrays)
    return client.bundles


def _check(model: torch.nn.Module) -> None:
    """Raises: ConfigError for wrappers that move gradients themselves, or keep parts of parameters only."""
    for module in model.modules():
        kind = type(module).__name__
        if kind == "DistributedDataParallel":
            raise ConfigError(
                f"model: expected one that exchanges no gradients itself, got {kind}; pass the module inside, and the "
                f"ranks that it was for as process_group="
            )
        if kind == "FullyShardedDataParallel" or hasattr(module, "unshard"):
            raise ConfigError(
                f"model: expected one that exchanges no gradients itself, got {kind} with parameters that are sharded, "
                f"while servers hold whole ones; pass the module before FSDP was applied, and process_group="
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
