"""What stands before an optimizer in a chain: it changes the gradient or the step, then hands on to the inner one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ps.errors import ConfigError
from ps.optim.base import Optimizer, Step
from ps.types import Float


@dataclass(frozen=True)
class Wrapper(Optimizer):
    """Wraps `inner`, whose lr, weight decay and state are its own. A subclass overrides `update` and calls inner's.

    State arrays of the wrapper stand before those of the inner one; so their names must differ.
    """

    inner: Optimizer
    lr: float = field(init=False)
    weight_decay: float = field(init=False)

    def __post_init__(self) -> None:
        refuse_sum(type(self).__name__, self.inner)
        object.__setattr__(self, "lr", self.inner.lr)
        object.__setattr__(self, "weight_decay", self.inner.weight_decay)

    @property
    def state(self) -> tuple[str, ...]:
        """The wrapper's own state, then that of the inner optimizer."""
        return (*self.STATE, *self.inner.state)

    @property
    def needs_base(self) -> bool:
        """Whatever the inner one wants."""
        return self.inner.needs_base

    def update(self, w_N: Float, grad_N: Float, state: Sequence[Float], out_N: Float, step: Step) -> None:
        """One commit of the inner optimizer."""
        self.inner.update(w_N, grad_N, state[len(self.STATE) :], out_N, step)


def refuse_sum(name: str, inner: Optimizer) -> None:
    """Raises ConfigError for an inner optimizer that adds pushes up: it has neither a rate nor a gradient to change."""
    if inner.TAKES == "sum":
        raise ConfigError(
            f"optimizer: {name} expected an optimizer of gradients to wrap, such as sgd:lr=0.1, got "
            f"{type(inner).__name__}, which sums pushes as they are; write it alone"
        )
