"""Server optimizers, what may wrap them, and learning-rate schedules: one small file and one line in a table each.

`optimizer("momentum:lr=0.1,decay=0.9")`, `optimizer("staleness:kind=sqrt+dcasgd:lam=0.04+sgd:lr=0.1")`,
`schedule("cosine:clocks=1000,warmup=20")`. One's own: `package.module:Class`, anywhere in the chain.
"""

from __future__ import annotations

import inspect

from ps.errors import ConfigError
from ps.optim.adagrad import Adagrad
from ps.optim.adam import Adam
from ps.optim.adamw import AdamW
from ps.optim.add import Add
from ps.optim.base import Optimizer, Step
from ps.optim.dcasgd import DelayCompensated
from ps.optim.delayed_nesterov import DelayedNesterov
from ps.optim.ftrl import Ftrl
from ps.optim.momentum import Momentum
from ps.optim.nesterov import Nesterov
from ps.optim.onebit_adam import OneBitAdam
from ps.optim.rmsprop import Rmsprop
from ps.optim.schedules import Constant, Cosine, InverseSqrt, Schedule, StepDecay
from ps.optim.sgd import Sgd
from ps.optim.staleness import Staleness
from ps.optim.wrapper import Wrapper, refuse_sum
from ps.plugins import build, own_class, parse_spec, split_chain

__all__ = ["OPTIMIZERS", "SCHEDULES", "WRAPPERS", "Optimizer", "Schedule", "Step", "Wrapper", "optimizer", "schedule"]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "add": Add,
    "delayed_nesterov": DelayedNesterov,
    "ftrl": Ftrl,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "onebit_adam": OneBitAdam,
    "rmsprop": Rmsprop,
    "sgd": Sgd,
}
WRAPPERS: dict[str, type[Wrapper]] = {"dcasgd": DelayCompensated, "staleness": Staleness}
SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "inverse_sqrt": InverseSqrt,
    "step": StepDecay,
}


def optimizer(spec: str) -> Optimizer:
    """The optimizer that `spec` spells: any number of wrappers, then one optimizer, joined by `+`.

    Raises: ConfigError for an unknown name, option or range, a wrapper in the last place, an optimizer before it.
    """
    *wrappers, last = split_chain(spec)
    for part in wrappers:
        _check_wrapper(part, spec)
    _check_last(last, spec)
    built = build("optimizer", OPTIMIZERS, last)
    for part in reversed(wrappers):
        refuse_sum(parse_spec(part)[0], built)
        built = build("optimizer", WRAPPERS, part, {"inner": built})
    return built


def schedule(spec: str) -> Schedule:
    """The schedule that `spec` spells. Raises: ConfigError for an unknown name, option or range."""
    name, _ = parse_spec(spec)
    _check_kind("schedule", name, SCHEDULES.get(name) or own_class(name), Schedule)
    return build("schedule", SCHEDULES, spec)


def _check_wrapper(part: str, spec: str) -> None:
    name, options = parse_spec(part)
    found = WRAPPERS.get(name) or OPTIMIZERS.get(name) or own_class(name)
    if found is not None and issubclass(found, Optimizer) and not issubclass(found, Wrapper):
        raise ConfigError(
            f"optimizer: {spec!r}: expected wrappers ({', '.join(WRAPPERS)}), then one optimizer in the last place, "
            f"got the optimizer {name!r} before it; write for example staleness+{name}:lr=0.1"
        )
    _check_kind("optimizer", name, found, Wrapper)
    if "inner" in options:
        raise ConfigError(f"optimizer: {name}: inner is what follows the '+'; write {name}+{options['inner']}")


def _check_last(part: str, spec: str) -> None:
    name, _ = parse_spec(part)
    found = OPTIMIZERS.get(name) or WRAPPERS.get(name) or own_class(name)
    if found is not None and issubclass(found, Wrapper):
        raise ConfigError(
            f"optimizer: {spec!r}: expected an optimizer in the last place, got {name!r}, which wraps one; "
            f"write for example {spec}+sgd:lr=0.1"
        )
    _check_kind("optimizer", name, found, Optimizer)


def _check_kind(family: str, name: str, found: type | None, base: type) -> None:
    """An own class must be what the place wants; None passes, `build` then lists the known names."""
    if found is not None and not (issubclass(found, base) and not inspect.isabstract(found)):
        raise ConfigError(
            f"{family}: expected {name!r} to be a subclass of {base.__module__}.{base.__name__} without abstract "
            f"methods, got {found.__name__}"
        )
