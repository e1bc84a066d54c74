"""No compression: a frame is the slice itself, in its master dtype."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """Frames are raw arrays. Nothing is lost; with error feedback the residual holds refused pushes."""

    error_feedback: bool = False
