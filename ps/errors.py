"""Every exception of `ps`, split by who must act: you, the other side, or later you again.

The impossible is an `assert`, never one of these.
"""

from __future__ import annotations


class Error(Exception):
    """Root of everything that `ps` raises on purpose."""


class ConfigError(Error, ValueError):
    """You must act: an argument, an option, a file or a script is wrong.

    The text names the field, what was expected, what came, and what to do.
    """


class PeerError(Error):
    """The other side must act: a message, a claim or an epoch of a peer is wrong.

    The text names the peer, what was expected, what came, and what to do.
    """


class FrameError(PeerError):
    """Bytes from a peer do not form a message or a frame."""


class OutboxFull(Error):
    """Retry later: the peer has not yet drained what was sent before."""


class DeadlineError(Error, TimeoutError):
    """A wait ended by its deadline. The text names who is missing and its last sign of life."""


class StoppedError(Error):
    """The job was stopped, by `stop(reason)`, a failed peer or the cluster's end; carries the reason."""
