"""Who computes: the native module where it is built, else the NumPy twins. Both give the same bytes.

`PS_KERNELS` forces one: `twin`, or a dispatch target of the native module (`avx512`, `avx2`, `portable`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from ps.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
TWIN = "twin"


def _native_module() -> Any:
    """None where it was installed without a compiler."""
    try:
        from ps.kernels import _native
    except ImportError:
        return None
    return _native


_native = _native_module()


def available() -> tuple[str, ...]:
    """What can compute on this machine, the fastest first."""
    return (*(_native.available() if _native is not None else ()), TWIN)


def _choose() -> str:
    name = os.environ.get("PS_KERNELS") or available()[0]
    if name not in available():
        raise ConfigError(f"PS_KERNELS: expected one of {', '.join(available())} on this machine, got {name!r}")
    if name != TWIN:
        _native.use(name)
    return name


IN_USE = _choose()


def kernel(twin: F) -> F:
    """The kernel that `twin` defines: the native one of the same name, or the twin itself."""
    if IN_USE == TWIN:
        return twin
    try:
        native: F = getattr(_native, twin.__name__)
    except AttributeError:
        raise ImportError(
            f"ps.kernels._native has no {twin.__name__}: it is older than this source; `make native` builds it again, "
            f"PS_KERNELS=twin does without"
        ) from None
    return native
