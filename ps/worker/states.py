"""Worker state that belongs to a checkpoint, by name: what the script registers, and the residuals of `ps` itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ps.errors import ConfigError
from ps.worker.calls import Calls
from ps.worker.runtime import Worker


class StateCalls(Calls):
    """Registers state, gives it, takes it back."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        encoder = worker.arrays.encoder  # residuals belong to a checkpoint
        self._states: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]]
        self._states = {"ps.compression": (encoder.state, encoder.load_state)}

    def register_state(self, name: str, get: Callable[[], Any], set: Callable[[Any], None]) -> None:
        """Names worker state (RNG, data position, inner moments) that belongs to a checkpoint of this worker.

        get: gives it as None, numbers, text, bytes, arrays, lists, and dicts with text as keys, in memory of its own:
        what MessagePack carries. set: takes that back; what it raises becomes a ConfigError.
        """
        if name in self._states:
            raise ConfigError(f"register_state: {name!r} is registered already; give each state its own name")
        self._states[name] = (get, set)

    def state(self) -> dict[str, Any]:
        """All registered worker state, as `get` gives it now."""
        return {name: get() for name, (get, _) in self._states.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Hands each registered state its part; what is not named stays as it is. The state need not outlive the call.

        Raises: ConfigError when a name is not registered, before anything is loaded; ConfigError naming state and
        field where one does not fit.
        """
        for name in state:
            if name not in self._states:
                raise ConfigError(f"load_state: {name!r} is not registered; known: {', '.join(self._states) or 'none'}")
        for name, value in state.items():
            try:
                self._states[name][1](value)
            except ConfigError as error:
                raise ConfigError(f"load_state: {name!r}: {error}") from error
            except KeyError as error:
                raise ConfigError(f"load_state: {name!r}: expected {error}, as state() gives it, got none") from error
            except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
                raise ConfigError(
                    f"load_state: {name!r}: expected what state() gives, got a state that fails with "
                    f"{type(error).__name__}: {error}"
                ) from error
