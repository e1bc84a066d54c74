"""Every transport passes every check."""

from __future__ import annotations

import pytest

from ps.testing.transports import CHECKS, OpenNetwork
from ps.transport.memory import MemoryNetwork

TRANSPORTS: dict[str, OpenNetwork] = {"memory": lambda: MemoryNetwork().open}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("check", CHECKS)
def test_transport(check: str, transport: str) -> None:
    CHECKS[check](TRANSPORTS[transport])
