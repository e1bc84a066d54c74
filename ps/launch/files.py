"""Run options from a TOML file: the same names as flags, with the line of whatever is wrong in it."""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from ps.colocated import COLOCATED
from ps.config import RunConfig
from ps.errors import ConfigError
from ps.plugins import describe


class ControllerFile(RunConfig, frozen=True, extra="forbid"):
    """What a file for `psctl controller` may say."""

    stop_after: str | None = None
    stop_when: str | None = None
    patience: str | None = None
    save: str | None = None
    log_dir: str | None = None
    log_to: str | None = None
    key: str | None = None


class RunFile(ControllerFile, frozen=True, extra="forbid"):
    """What a file for `psctl run` may say. Paths are taken as in flags: from the current folder."""

    record: str | None = None
    evaluator: str | None = None
    max_restarts: Annotated[int, Field(ge=0)] = 0


class ServerFile(BaseModel, frozen=True, extra="forbid"):
    """What a file for `psctl server` may say."""

    controller: str | None = None
    listen: str | None = None
    advertise: str | None = None
    insecure: bool | None = None
    key: str | None = None


class WorkerFile(BaseModel, frozen=True, extra="forbid"):
    """What a file for `psctl worker` may say."""

    controller: str | None = None
    directory: str | None = None
    log_dir: str | None = None
    key: str | None = None


def read_file(path: str, kind: type[BaseModel]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the file says, types and ranges checked, and where it says that: name -> "FILE:LINE".

    Whether plug-ins and files that it names exist is for those to find out who use them.
    Raises: ConfigError with the line.
    """
    source = read_text(path)
    try:
        options = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(no_toml(path, source, str(error))) from None
    lines = key_lines(source)
    places = {name: f"{path}:{lines[name]}" for name in options}
    for name, value in options.items():
        if (wrong := mistake(name, value, kind)) is not None:
            raise ConfigError(f"{places[name]}: {wrong}")
    return options, places


def mistake(name: str, value: Any, kind: type[BaseModel]) -> str | None:
    """`field: expected ..., got ...`, or None when it holds. No field looks at another, so each is checked alone."""
    if name not in kind.model_fields:
        near = get_close_matches(name.replace("-", "_"), kind.model_fields, 1)
        known = f"{near[0]}, or another" if near else "one"
        what = "table" if _has_table(value) else "key"
        return f"{name}: expected {known} of {', '.join(sorted(kind.model_fields))}, got an unknown {what}"
    if name == "parameters" and isinstance(value, list):
        value = tuple(value)
    elif _has_table(value):
        return f"{name}: expected one value, {name} = ..., got a table; tables have no meaning here"
    if name == "servers" and value == COLOCATED:
        return None
    try:
        kind.model_validate({name: value}, strict=True)  # a file has types: "2" is no number
    except ValidationError as error:
        return describe(error)
    return None


def key_lines(source: str) -> dict[str, int]:
    """The line, from 1, where each key or table of the top level begins. The source is TOML.

    A statement is the fewest lines that are TOML by themselves; so what looks like a key in a text is none.
    """
    rows, first, found = source.split("\n"), 0, dict[str, int]()
    for last in range(1, len(rows) + 1):
        try:
            statement = tomllib.loads("\n".join(rows[first:last]))
        except tomllib.TOMLDecodeError:
            continue
        for name in statement:
            found.setdefault(name, first + 1)
        first = last
    return found


def _has_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_table, value)))


def read_text(path: str) -> str:
    """Raises: ConfigError unless it is a file of UTF-8."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: expected a TOML file that can be read, got {error.strerror or error}") from None
    try:
        return raw.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        before = raw[: error.start].split(b"\n")
        place = f"{path}:{len(before)}:{len(before[-1]) + 1}"
        raise ConfigError(f"{place}: expected TOML in UTF-8, got the byte {raw[error.start]:#04x}") from None


def no_toml(path: str, source: str, words: str) -> str:
    """What is wrong with a file that is no TOML, with the position that the parser names."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", words, re.DOTALL)
    if found is not None:
        return f"{path}:{found[2]}:{found[3]}: expected TOML, got none: {found[1]}"
    rows = source.split("\n")
    words = words.removesuffix(" (at end of document)")
    return f"{path}:{len(rows)}:{len(rows[-1]) + 1}: expected TOML, got none: {words}"
