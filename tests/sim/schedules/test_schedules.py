"""Random fault schedules: 500 of each model here, 10,000 in `make soak`, shared out among its variants.

A failure carries the seed and a shortened schedule; paste that into test_found.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ps.testing.schedules import check_schedules

SEEDS, SOAK_SEEDS = 500, 10_000
CHUNK = 50  # a chunk is one test, so that xdist can share them out

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bsp, wait": ("bsp", {"on_worker_loss": "wait"}),
    "bsp, drop": ("bsp", {"on_worker_loss": "drop"}),
    "ssp": ("ssp:staleness=2", {}),
    "ssp, lockstep": ("ssp:staleness=0", {}),
    "async": ("async", {}),
    "downpour": ("downpour:push_every=2,pull_every=3,local_lr=0.5,warm_start=2", {}),
    "quorum": ("quorum:n=2", {}),
    "quorum, refunds": ("quorum:n=2", {"push": "none:error_feedback=true"}),
    "local": ("local:every=2,local_lr=0.5", {}),
    "local, fragments": ("local:every=4,local_lr=0.5,fragments=2", {}),
    "local, a fragment per clock": ("local:every=3,local_lr=0.5,fragments=3,mix=0.5", {}),
    "local, overlap": ("local:every=4,local_lr=0.5,fragments=2,overlap=1", {}),
    "local, overlap of one fragment": ("local:every=3,local_lr=0.5,overlap=2,mix=0.25", {}),
    "async_local": ("async_local:every=2,local_lr=0.5", {}),
    "easgd": ("easgd:alpha=0.3,every=2,local_lr=0.5", {}),
    "async_local, delayed": ("async_local:every=2,local_lr=0.5", {"optimizer": "delayed_nesterov:lr=0.5,period=2"}),
}


def shares(seeds: int) -> Iterator[tuple[str, int]]:
    """(variant, first seed): the chunks of each model go round its variants."""
    variants: dict[str, list[str]] = {}
    for name, (model, _) in MODELS.items():
        variants.setdefault(model.partition(":")[0], []).append(name)
    for names in variants.values():
        yield from ((names[place % len(names)], place * CHUNK) for place in range(seeds // CHUNK))


@pytest.mark.parametrize(("name", "first"), list(shares(SEEDS)))
def test_random_schedules(name: str, first: int) -> None:
    model, drawn = MODELS[name]
    check_schedules(model, range(first, first + CHUNK), **drawn)


@pytest.mark.soak
@pytest.mark.parametrize(("name", "first"), [share for share in shares(SOAK_SEEDS) if share[1] >= SEEDS])
def test_random_schedules_for_long(name: str, first: int) -> None:
    test_random_schedules(name, first)
