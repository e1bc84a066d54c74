"""The key of the cluster, if there is one."""

from __future__ import annotations

from ps.doctor.finding import Finding, ok, problem
from ps.errors import ConfigError
from ps.key import Key, key_in


def key_in_use(path: str | None) -> tuple[Key | None, Finding]:
    """The key in this file, and what is to be said of it. Raises: ImportError when it cannot be read here."""
    try:
        key = key_in(path)
    except ConfigError as error:
        found, _, remedy = str(error).removeprefix("--key: ").rpartition("; ")
        return None, problem("key", found, remedy)
    if key is None:
        return None, ok("key", "none in use: a cluster without one is for loopback, or --insecure")
    return key, ok("key", f"{key.path} in use: peers prove that they have it, and what they say is encrypted")
