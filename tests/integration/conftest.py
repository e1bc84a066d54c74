"""Every integration test takes `seed` where the same must hold in real time (threads) and in virtual time."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[None, 7], ids=["threads", "virtual"])
def seed(request: pytest.FixtureRequest) -> int | None:
    """The seed of a LocalCluster: None runs it in threads, a number in virtual time."""
    value: int | None = request.param
    return value
