"""Packages of the extra `experiments`: needed by some commands, and by nothing that trains."""

from __future__ import annotations

from importlib.util import find_spec

from ps.errors import ConfigError


def need(*packages: str) -> None:
    """Raises: ConfigError that names the first one that is missing, and the extra that has it."""
    for package in packages:
        if find_spec(package) is None:
            raise ConfigError(
                f"expected the package {package}, which is not installed; run pip install 'paramserver[experiments]'"
            )
