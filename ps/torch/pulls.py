"""Values on their way back: every module waits for its own parameters before it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from ps.torch.tensors import Mirror, outside_graphs, plain_model
from ps.worker.pulling import PullFuture


class Pulls:
    """The pull under way, and the hooks that wait for it.

    A module waits for the parameters that it owns; one of torch's own (attention) for those inside it, too, as it may
    read them without calling their module. Those of modules that the first forward pass did not call are waited for at
    its begin, as nobody knows who reads them; so are all of a compiled model.
    """

    def __init__(self, model: torch.nn.Module, mirrors: dict[str, Mirror]) -> None:
        self.arrays = {name: one.array for name, one in mirrors.items()}
        self._pending: PullFuture | None = None
        self._copied: list[Mirror] = [one for one in mirrors.values() if not one.shares]
        self._of = {id(one.parameter): name for name, one in mirrors.items()}
        self._called: set[str] = set()  # names for which some module has waited in the first pass
        self._first: frozenset[str] = frozenset()  # waited for at the begin of each pass
        self._is_first_pass = True
        self._is_called = False  # the model itself, since values were last asked for
        plain = plain_model(model)
        plain.register_state_dict_pre_hook(lambda *_: self.finish())
        model.register_forward_pre_hook(self._begin_of_pass)
        if plain is not model:  # of torch.compile: a wait inside would cut its graph
            self._first = frozenset(mirrors)
            return
        for module in plain.modules():
            if names := self._names(module):
                module.register_forward_pre_hook(self._waits_for(names))

    def begin(self, pending: PullFuture | None) -> None:
        """All values are asked for, or none: it is not their clock. They are waited for at once where this step's
        gradients did not come from a call of the model: then nothing will wait for them later."""
        if self._is_first_pass and self._called:
            self._is_first_pass = False
            self._first = frozenset(self.arrays) - self._called
        self._pending = pending
        if not self._is_called:
            self.finish()
        self._is_called = False

    def finish(self) -> None:
        """Until all are there."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
            for mirror in self._copied:
                mirror.load()

    def _names(self, module: torch.nn.Module) -> frozenset[str]:
        is_torchs = type(module).__module__.startswith("torch.") and not isinstance(module, torch.nn.Sequential)
        parameters = module.parameters(recurse=is_torchs)
        return frozenset(self._of[id(p)] for p in parameters if id(p) in self._of)

    def _waits_for(self, names: frozenset[str]) -> Callable[..., None]:
        @outside_graphs
        def wait(*_: Any) -> None:
            if self._is_first_pass:
                self._called |= names
            self._wait(names)

        return wait

    @outside_graphs
    def _begin_of_pass(self, *_: Any) -> None:
        self._is_called = True
        self._wait(self._first)

    def _wait(self, names: Iterable[str]) -> None:
        if self._pending is None or not names:
            return
        if self._copied:
            self.finish()
        else:
            self._pending.wait(names)
