"""Flags that several commands share, and the file that may give them: flags win over it."""

from __future__ import annotations

import inspect
from typing import Any

import typer
from pydantic import BaseModel

from ps.cli.common import key_flag, parameter
from ps.control.commands import check_address
from ps.errors import ConfigError
from ps.launch.files import read_file
from ps.launch.sinks import LOG_TO, SINKS

ADDRESS = "HOST:PORT"
DIAL_HELP = "Where the controller listens; else PS_CONTROLLER says it."


def text_option(name: str, metavar: str, help: str) -> inspect.Parameter:
    """A flag that is a text, or absent."""
    flag = f"--{name.replace('_', '-')}"
    return parameter(name, str | None, typer.Option(None, flag, metavar=metavar, help=help, show_default=False))


def file_option() -> inspect.Parameter:
    """The file with options."""
    return text_option("config", "FILE", "TOML: options as `name = value`, named as here with _ for -; flags win.")


def log_to_option() -> inspect.Parameter:
    """Where logged values go."""
    return text_option("log_to", "SINK,...", f"Logged values go to {', '.join(SINKS)}. [default: {LOG_TO}]")


def with_file(given: dict[str, Any], kind: type[BaseModel]) -> tuple[dict[str, Any], dict[str, str]]:
    """Takes --config and the flags of `kind` out of `given`: all options, and the places of those from the file.

    Raises: ConfigError with the line of the file.
    """
    path = given.pop("config")
    options, places = ({}, {}) if path is None else read_file(path, kind)
    flags = {name: text for name in kind.model_fields if (text := given.pop(name, None)) is not None}
    return {**options, **flags}, {name: place for name, place in places.items() if name not in flags}


def controller_option() -> inspect.Parameter:
    """Where the controller is."""
    option = typer.Option(
        None,
        "--controller",
        envvar="PS_CONTROLLER",
        metavar=ADDRESS,
        help=DIAL_HELP,
        show_envvar=False,
        show_default=False,
    )
    return parameter("controller", str | None, option)


def key_option() -> inspect.Parameter:
    """The cluster's key file."""
    return parameter("key", str | None, key_flag())


def needed_controller(address: str | None) -> str:
    """The address. Raises: ConfigError unless it is one."""
    if address is None:
        raise ConfigError("--controller: expected host:port of a controller, got none; give it, or set PS_CONTROLLER")
    return check_address("--controller", address)
