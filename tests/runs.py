"""Runs under which one script must train, whatever its framework."""

from __future__ import annotations

from typing import Any

MODELS: list[dict[str, Any]] = [
    {"consistency": "bsp"},
    {"consistency": "ssp:staleness=3"},
    {"consistency": "quorum:n=1"},
    {"consistency": "async"},
    {"consistency": "downpour:push_every=2,pull_every=2"},
    {"consistency": "local:every=4", "optimizer": "sgd:lr=1"},
    {"consistency": "local:every=4", "optimizer": "nesterov:lr=0.7,decay=0.5"},
    {"consistency": "local:every=4,fragments=2", "optimizer": "nesterov:lr=0.7,decay=0.5"},
    {"consistency": "local:every=4,fragments=2,overlap=1", "optimizer": "nesterov:lr=0.7,decay=0.5"},
    {"consistency": "async_local:every=4", "optimizer": "delayed_nesterov:lr=0.7,decay=0.5,period=2"},
    {"consistency": "easgd:alpha=0.4,every=4", "optimizer": "add"},
    {"consistency": "bsp", "compression": "onebit:min_elements=0"},
    {"consistency": "ssp:staleness=3", "compression": "onebit:min_elements=0"},
    {"consistency": "bsp", "push_compression": "topk:ratio=0.2,min_elements=0"},
]
