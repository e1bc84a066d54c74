"""Which server optimizer does what a torch optimizer would: its spelling, and what differs from group to group.

A server steps once per clock with the mean of all workers' gradients, as torch would with the gradient of the whole
batch. What has no twin is refused, with the list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ps.errors import ConfigError
from ps.keyspace import Options

Group = Mapping[str, Any]


def _sgd(group: Group) -> str:
    _same("SGD", group, dampening=0)
    if not group["momentum"]:
        return "sgd:"
    return f"{'nesterov' if group['nesterov'] else 'momentum'}:decay={group['momentum']!r},"


def _adam(name: str, group: Group) -> str:
    _same(name, group, amsgrad=False)
    beta1, beta2 = (float(beta) for beta in group["betas"])
    is_decoupled = group.get("decoupled_weight_decay", name == "AdamW")  # older releases do not have it
    return f"{'adamw' if is_decoupled else 'adam'}:beta1={beta1!r},beta2={beta2!r},eps={float(group['eps'])!r},"


def _adagrad(group: Group) -> str:
    _same("Adagrad", group, lr_decay=0, initial_accumulator_value=0)
    return f"adagrad:eps={float(group['eps'])!r},"


def _rmsprop(group: Group) -> str:
    _same("RMSprop", group, momentum=0, centered=False)
    return f"rmsprop:decay={float(group['alpha'])!r},eps={float(group['eps'])!r},"


TWINS: dict[type[torch.optim.Optimizer], Callable[[Group], str]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: lambda group: _adam("Adam", group),
    torch.optim.AdamW: lambda group: _adam("AdamW", group),
    torch.optim.Adagrad: _adagrad,
    torch.optim.RMSprop: _rmsprop,
}


def twin_of(optimizer: torch.optim.Optimizer) -> tuple[str, list[Options]]:
    """The server optimizer, as `--optimizer` spells it, and the options of each group's parameters.

    Its rate is the largest of the groups'; `lr_scale` says how the others relate to it.
    Raises: ConfigError when there is none.
    """
    spell = TWINS.get(type(optimizer))
    if spell is None:
        raise ConfigError(
            f"optimizer: expected one of torch.optim.{', '.join(kind.__name__ for kind in TWINS)}, which servers can "
            f"take over, got {type(optimizer).__name__}; under --consistency local any torch optimizer steps"
        )
    groups = optimizer.param_groups
    for place, group in enumerate(groups):
        _same(type(optimizer).__name__, group, maximize=False)
        if spell(group) != spell(groups[0]):
            raise ConfigError(
                f"optimizer: group {place}: expected it to differ from group 0 in lr and weight_decay at most, got "
                f"{spell(group)[:-1]} beside {spell(groups[0])[:-1]}"
            )
    lr = max(rate_of(group) for group in groups)
    if not lr > 0:
        raise ConfigError(f"optimizer: lr: expected a group with a rate > 0 at the start, got {lr}; warm up from a bit")
    options = [
        Options(lr_scale=rate_of(group) / lr, weight_decay=float(group.get("weight_decay", 0.0))) for group in groups
    ]
    return f"{spell(groups[0])}lr={lr!r}", options


def rate_of(group: Group) -> float:
    """A group's learning rate; schedulers may make it a tensor."""
    return float(group["lr"])


def _same(name: str, group: Group, **expected: Any) -> None:
    for option, value in expected.items():
        if group.get(option, value) != value:
            raise ConfigError(
                f"optimizer: {name}: {option}: expected {value}, got {group[option]}: servers have no twin"
            )
