"""CURVE on sockets of libzmq: who dials proves that it has the cluster's key, and everything is encrypted.

A server asks the `Door` about each dialer's public key (ZAP, RFC 27). It is answered in the thread that receives, so no
second one competes for the interpreter's lock; a handshake then waits at most for the message that is being handled.
"""

from __future__ import annotations

from typing import Any

import zmq
from zmq.utils import z85

from ps.key import Key

PLACE = "inproc://zeromq.zap.01"  # where libzmq asks, one for each context
OVERHEAD_BYTES = 64  # more than a sealed frame is longer than what is in it
DOMAIN = b"ps"
HANDSHAKE_S = 5  # who has not proved in so long that it has the key is cut off, with all that it has sent
NOBLOCK, POLLIN = int(zmq.NOBLOCK), int(zmq.POLLIN)


def lock(socket: zmq.Socket[bytes], key: Key) -> None:
    """Before it is bound: only who has the key gets in, and nobody where there is no `Door`."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.servers.secret)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_S * 1000)
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def unlock(socket: zmq.Socket[bytes], key: Key) -> None:
    """Before it dials a server that is locked."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, key.servers.public)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, key.dialers.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.dialers.secret)


class Door:
    """Tells libzmq who may come in. For one thread at a time; made before anybody can dial."""

    def __init__(self, context: zmq.Context[Any], key: Key) -> None:
        self._admitted = z85.decode(key.dialers.public)
        self._socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(PLACE)
        self.fd: int = self._socket.FD

    def answer(self) -> None:
        """Answers all that was asked; never waits."""
        while int(self._socket.getsockopt(zmq.EVENTS)) & POLLIN:
            version, request, _, _, _, mechanism, *credentials = self._socket.recv_multipart(NOBLOCK)
            admitted = mechanism == b"CURVE" and credentials == [self._admitted]
            status = (b"200", b"") if admitted else (b"400", b"another key")
            self._socket.send_multipart([version, request, *status, b"", b""], NOBLOCK)

    def close(self) -> None:
        """Nobody comes in any more."""
        self._socket.close()
