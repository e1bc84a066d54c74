"""Addresses as people write them: host:port, and who can reach a host."""

from __future__ import annotations

import ipaddress

from ps.errors import ConfigError


def split_address(flag: str, address: str) -> tuple[str, int]:
    """Host, without brackets, and port. Raises: ConfigError naming the flag."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and int(port[:6]) < 1 << 16):
        raise ConfigError(f"{flag}: expected host:port, got {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Names other than localhost count as reachable: what they mean is not ours to know."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_every_address(host: str) -> bool:
    """It can be listened on, but not dialled."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == "*"
