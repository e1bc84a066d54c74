"""The optax transformation that does on a worker what a server optimizer does: for `local`, where workers step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from ps.errors import ConfigError
from ps.optim import optimizer
from ps.optim.adam import Adam
from ps.optim.adamw import AdamW
from ps.optim.base import Optimizer
from ps.optim.momentum import Momentum
from ps.optim.nesterov import Nesterov
from ps.optim.rmsprop import Rmsprop
from ps.optim.sgd import Sgd

TWINS: dict[type[Optimizer], Callable[[Any], optax.GradientTransformation]] = {
    Sgd: lambda rule: optax.sgd(rule.lr),
    Momentum: lambda rule: optax.sgd(rule.lr, rule.decay),
    Nesterov: lambda rule: optax.sgd(rule.lr, rule.decay, nesterov=True),
    Rmsprop: lambda rule: optax.rmsprop(rule.lr, rule.decay, rule.eps, eps_in_sqrt=False),
    Adam: lambda rule: optax.adam(rule.lr, rule.beta1, rule.beta2, rule.eps),
    AdamW: lambda rule: optax.adamw(rule.lr, rule.beta1, rule.beta2, rule.eps, weight_decay=rule.weight_decay),
}


def optax_of(spec: str) -> optax.GradientTransformation:
    """Of a server optimizer as `--optimizer` spells it. Raises: ConfigError when optax has none that does the same."""
    rule = optimizer(spec)
    make = TWINS.get(type(rule))
    if make is None:
        names = ", ".join(kind.__name__.lower() for kind in TWINS)
        raise ConfigError(
            f"optimizer: expected one of {names} under --consistency local, where workers step by optax, got {spec!r}; "
            f"or an optax transformation"
        )
    if rule.weight_decay and not isinstance(rule, AdamW):
        return optax.chain(optax.add_decayed_weights(rule.weight_decay), make(rule))
    return make(rule)
