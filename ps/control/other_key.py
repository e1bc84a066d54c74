"""Finds out that a controller cannot be reached because of the key: gRPC only says that it is not available."""

from __future__ import annotations

import socket
import ssl

from ps.addresses import split_address
from ps.key import Key, OtherKey

KEY_S = 1.0  # a controller that has not answered for so long may have another key
LOOK_S = 2.0  # a controller that is there shakes hands within milliseconds
REMEDY = "give the same --key FILE (or PS_KEY) to everybody"


def check_key(address: str, key: Key | None) -> None:
    """Looks who listens at "host:port", for at most a few seconds. Nothing happens when nobody does.

    Raises: OtherKey when it has another key than this one, or one of the two has none.
    """
    shown = _certificate(address)
    if shown is None or (key is not None and shown == key.certificate):
        return
    expected = "one without a key" if key is None else f"one with the key of {key.path}"
    got = "one with another key" if key is not None else "one with a key"
    if not shown:
        if key is None:
            return
        got = "one without a key, or another program"
    raise OtherKey(f"controller at {address}: expected {expected}, got {got}; {REMEDY}")


def _certificate(address: str) -> bytes | None:
    """What the listener shows as its own; empty when it does not speak TLS; None when there is none.

    It is shown before we have to say who we are, and compared, not trusted.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(split_address("controller", address), LOOK_S) as way:
            try:
                with context.wrap_socket(way) as shaken:
                    return shaken.getpeercert(binary_form=True)
            # It hangs up, as a proxy does before whom it stands for is there. Which of the two depends on Python.
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return None
            except ssl.SSLError:
                return b""
    except (OSError, UnicodeError):  # or a name that can be none
        return None
