"""Adam whose weight decay does not pass through the moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ps.optim.adam import Adam


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam's step on g alone, and w <- w - lr * weight_decay * w beside it (Loshchilov & Hutter, ICLR 2019).

    Shapes: all (n,). Decay 0.01 as in PyTorch: without any it is `adam`.
    """

    weight_decay: Annotated[float, Field(ge=0)] = 0.01

    DECOUPLED: ClassVar[bool] = True
