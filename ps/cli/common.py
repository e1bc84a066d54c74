"""What several commands share: mistakes in one line, parameters for typer, who may be reached from where."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ps.addresses import is_loopback
from ps.errors import ConfigError, Error

F = TypeVar("F", bound=Callable[..., int])

PORT = 7070  # of a controller that is not told otherwise
CONTROLLER_HELP = "HOST:PORT where the controller listens; else PS_CONTROLLER says it."


def one_line(command: str) -> Callable[[F], F]:
    """Errors of ours become one line on stderr: exit code 2 for what the caller must change, else 1."""

    def decorate(work: F) -> F:
        @wraps(work)
        def guarded(*args: Any, **given: Any) -> int:
            try:
                return work(*args, **given)
            except Error as error:
                print(f"psctl {command}: {error}".replace("\n", " "), file=sys.stderr)
                return 2 if isinstance(error, ConfigError) else 1

        return guarded  # type: ignore[return-value]

    return decorate


def parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """A parameter of a command whose signature is made, as typer reads it."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def with_parameters(work: Callable[..., int], parameters: list[inspect.Parameter]) -> Callable[..., int]:
    """The same command; typer now sees these."""
    work.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    work.__annotations__ = {one.name: one.annotation for one in parameters}
    return work


def check_reach(flag: str, host: str, insecure: bool) -> None:
    """Peers do not prove who they are yet, so only this machine may reach us. Raises: ConfigError naming the flag."""
    if not insecure and not is_loopback(host):
        raise ConfigError(
            f"{flag}: expected a loopback address such as 127.0.0.1, got {host!r}, which others can reach, and peers "
            "do not authenticate; give --insecure if you trust everybody in that network"
        )
