"""No compression: a frame is the gradient itself, in the master dtype of its slice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """Frames are raw arrays. Nothing is lost, so with error feedback the residual holds refused pushes only."""
