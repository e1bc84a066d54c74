"""The client for `async def` training loops: the same calls, awaited; they run one after the other in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from ps.keyspace import Options
from ps.types import Array
from ps.worker.client import Client
from ps.worker.verdicts import PushFuture, Verdict

P = ParamSpec("P")
R = TypeVar("R")


class AsyncClient:
    """Wraps a Client; `client.sync` is it. Only calls that may wait are coroutines."""

    def __init__(self, sync: Client) -> None:
        self.sync = sync
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ps client")

    @property
    def rank(self) -> int:
        return self.sync.rank

    @property
    def size(self) -> int:
        return self.sync.size

    @property
    def clock(self) -> int:
        return self.sync.clock

    async def register(self, values: Mapping[str, Array], options: Mapping[str, Options] | None = None) -> None:
        """As Client.register."""
        await self._call(self.sync.register, values, options)

    async def pull(self, names: list[str] | None = None, *, timeout: float | None = None) -> dict[str, Array]:
        """As Client.pull."""
        return await self._call(self.sync.pull, names, timeout=timeout)

    async def push(self, grads: Mapping[str, Array], weight: float = 1.0) -> PushFuture:
        """As Client.push; await `verdict(future)` for what became of it."""
        return await self._call(self.sync.push, grads, weight)

    async def verdict(self, future: PushFuture, timeout: float | None = None) -> dict[str, Verdict]:
        """As PushFuture.result."""
        return await self._call(future.result, timeout)

    async def push_pull(self, grads: Mapping[str, Array], weight: float = 1.0) -> dict[str, Array]:
        """As Client.push_pull."""
        return await self._call(self.sync.push_pull, grads, weight)

    async def tick(self) -> None:
        """As Client.tick."""
        await self._call(self.sync.tick)

    async def barrier(self, *, timeout: float | None = None) -> None:
        """As Client.barrier."""
        await self._call(self.sync.barrier, timeout=timeout)

    async def log(self, **values: float) -> None:
        """As Client.log."""
        await self._call(self.sync.log, **values)

    async def close(self) -> None:
        """As Client.close."""
        await self._call(self.sync.close)
        self._thread.shutdown()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        reason = "" if error is None else f"{type(error).__name__}: {error}"
        await self._call(self.sync.close, reason)
        self._thread.shutdown()

    async def _call(self, do: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: do(*args, **kwargs))
