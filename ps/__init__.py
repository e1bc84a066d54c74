"""ps: a parameter server for training on machines that are not alike and not close together.

Everything public is one attribute away and loaded when first used, so that `import ps` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ps import data as data
    from ps import huggingface as huggingface
    from ps import jax as jax
    from ps import testing as testing
    from ps import torch as torch
    from ps.errors import ConfigError as ConfigError
    from ps.errors import DeadlineError as DeadlineError
    from ps.errors import Error as Error
    from ps.errors import FrameError as FrameError
    from ps.errors import OutboxFull as OutboxFull
    from ps.errors import PeerError as PeerError
    from ps.errors import StoppedError as StoppedError
    from ps.factors import Factors as Factors
    from ps.keyspace import Options as Options
    from ps.local import LocalCluster as LocalCluster
    from ps.local import connect as connect
    from ps.worker.aio import AsyncClient as AsyncClient
    from ps.worker.client import Client as Client
    from ps.worker.verdicts import Accumulated as Accumulated
    from ps.worker.verdicts import Applied as Applied
    from ps.worker.verdicts import Gathered as Gathered
    from ps.worker.verdicts import Refused as Refused

__version__ = "0.1.0.dev0"

_HOME = {
    **dict.fromkeys(
        ("Error", "ConfigError", "PeerError", "FrameError", "OutboxFull", "DeadlineError", "StoppedError"), "ps.errors"
    ),
    **dict.fromkeys(("Applied", "Gathered", "Refused", "Accumulated"), "ps.worker.verdicts"),
    "Factors": "ps.factors",
    "Options": "ps.keyspace",
    "LocalCluster": "ps.local",
    "connect": "ps.local",
    "Client": "ps.worker.client",
    "AsyncClient": "ps.worker.aio",
}
_MODULES = ("data", "testing")
_FRAMEWORKS = ("huggingface", "jax", "torch")  # each needs its extra: not part of `from ps import *`

__all__ = ["__version__", *sorted(_HOME), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES or name in _FRAMEWORKS:
        return importlib.import_module(f"ps.{name}")
    raise AttributeError(f"module 'ps' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
