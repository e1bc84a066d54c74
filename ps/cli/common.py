"""What several commands share: mistakes in one line, parameters for typer, who may be reached from where."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import typer

from ps.addresses import is_loopback
from ps.errors import ConfigError, Error
from ps.key import VARIABLE, Key

F = TypeVar("F", bound=Callable[..., int])

PORT = 7070  # of a controller that is not told otherwise
KEY_HELP = "The cluster's key file, made by psctl key; else PS_KEY names it."
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


def key_flag() -> Any:
    """The default of a parameter `key`, as typer reads it."""
    return typer.Option(
        None, "--key", envvar=VARIABLE, metavar="FILE", help=KEY_HELP, show_default=False, show_envvar=False
    )


def with_parameters(work: Callable[..., int], parameters: list[inspect.Parameter]) -> Callable[..., int]:
    """The same command; typer now sees these."""
    work.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    work.__annotations__ = {one.name: one.annotation for one in parameters}
    return work


def check_reach(flag: str, host: str, insecure: bool, key: Key | None) -> None:
    """Without a key only this machine may reach us. Raises: ConfigError naming the flag."""
    if key is None and not insecure and not is_loopback(host):
        raise ConfigError(
            f"{flag}: expected a loopback address such as 127.0.0.1, got {host!r}, which others can reach; give "
            "--key FILE (made by psctl key FILE, the same on every host), or --insecure if you trust everybody in that "
            "network"
        )
