"""One spelling of a plug-in with options, everywhere: `name:key=value,key=value`.

Flags, keywords, TOML values and grid cells all come through `build`. A plug-in is a frozen dataclass; its annotations
are its validation (pydantic checks types and ranges). Wrappers precede what they wrap, joined by `+`:
`staleness:kind=sqrt+momentum:lr=0.1,decay=0.9`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from ps.errors import ConfigError

P = TypeVar("P")

_CHAIN = re.compile(r"\+(?=[A-Za-z])")  # "+3" inside a number is no joint


def split_chain(spec: str) -> list[str]:
    """`a:x=1+b:y=2` -> [`a:x=1`, `b:y=2`]."""
    return _CHAIN.split(spec)


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """`topk:ratio=0.01` -> (`topk`, {`ratio`: `0.01`}); `pkg.mod:Class:key=value` -> (`pkg.mod:Class`, {...}).

    Raises: ConfigError when an option has no `=` or stands twice.
    """
    head, *rest = spec.strip().split(":")
    if rest and "=" not in rest[0]:
        head = f"{head}:{rest.pop(0)}"
    if len(rest) > 1:
        raise ConfigError(f"{spec!r}: expected name:key=value,key=value, got a second ':' in the options")
    options: dict[str, str] = {}
    for part in rest[0].split(",") if rest else ():
        key, equals, value = (p.strip() for p in part.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"{spec!r}: expected options as key=value, got {part!r}")
        if key in options:
            raise ConfigError(f"{spec!r}: option {key!r} stands twice; keep one")
        options[key] = value
    return head, options


def own_class(name: str) -> type[Any] | None:
    """The class that `package.module:Class` names, or None when `name` is not of that form.

    Raises: ConfigError when it is of that form and cannot be imported.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return None
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"{name!r}: expected an importable package.module:Class, got {error}") from None
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise ConfigError(f"{name!r}: expected a dataclass, got {found!r}; plug-ins are frozen dataclasses")
    return found


def build(family: str, table: Mapping[str, type[P]], spec: str, extra: Mapping[str, Any] | None = None) -> P:
    """The plug-in that `spec` spells, from `table` or from the user's own module.

    `family` is the knob's name in errors ("compression"). `extra` are options that are not spelled, such as an inner
    plug-in. Raises: ConfigError for an unknown name (it lists the known ones), option, type or range.
    """
    name, options = parse_spec(spec)
    head, _, rest = name.partition(":")
    if rest and head in table:
        raise ConfigError(f"{family}: {head}: expected options as key=value, got {rest!r}")
    plugin = table.get(name) or own_class(name)
    if plugin is None:
        raise ConfigError(f"{family}: expected one of {', '.join(sorted(table))} or package.module:Class, got {name!r}")
    return validated(family, name, plugin, {**options, **(extra or {})})


@cache
def _adapter(plugin: type[P]) -> Any:
    """Takes pydantic most of a millisecond, once per class."""
    import pydantic  # late: `import ps` stays light

    return pydantic.TypeAdapter(plugin)


def validated(family: str, name: str, plugin: type[P], options: Mapping[str, Any]) -> P:
    """An instance of the dataclass `plugin`, its options checked against the annotations by pydantic."""
    import pydantic

    assert dataclasses.is_dataclass(plugin)
    if inspect.isabstract(plugin):
        missing = ", ".join(sorted(plugin.__abstractmethods__))
        raise ConfigError(f"{family}: {name}: expected a class that defines {missing}, got an abstract one")
    known = [f.name for f in dataclasses.fields(plugin) if f.init]
    for key in options:
        if key not in known:
            has = f"one of {', '.join(known)}" if known else "no options"
            raise ConfigError(f"{family}: {name} expected {has}, got {key!r}")
    try:
        made: P = _adapter(plugin).validate_python(dict(options))
    except pydantic.ValidationError as error:
        raise ConfigError(f"{family}: {name}: {describe(error)}") from None
    return made


def describe(error: Any) -> str:
    """A pydantic error in one line: `field: expected ..., got ...`."""
    parts = []
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"]) or "value"
        if item["type"] == "value_error" and not item["loc"]:
            parts.append(str(item["ctx"]["error"]))  # a plug-in's own word
        elif item["type"] == "value_error":
            parts.append(f"{field}: {item['ctx']['error']}")
        elif item["type"] == "missing":
            parts.append(f"{field}: expected a value, got none")
        else:
            parts.append(f"{field}: {_lower(item['msg'])}, got {item['input']!r}")
    return "; ".join(parts)


def _lower(text: str) -> str:
    text = text.replace("Input should be ", "expected ")
    return text[:1].lower() + text[1:]
