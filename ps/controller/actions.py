"""What the controller tells its runtime to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ps.types import PeerId


@dataclass(frozen=True, slots=True)
class Send:
    """A message to a peer."""

    to: PeerId
    body: Any
