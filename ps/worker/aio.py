"""The client for `async def` training loops: the same calls, awaited; they run one after the other in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, SupportsFloat, TypeVar

from ps.keyspace import Options
from ps.types import Array
from ps.worker.checks import Gradients
from ps.worker.client import Client
from ps.worker.verdicts import PushFuture, Verdict

P = ParamSpec("P")
R = TypeVar("R")


class AsyncClient:
    """Wraps a Client; `client.sync` is it, for all that is not here (`ps.data.shard(arrays, client.sync, ...)`).

    Only calls that may wait are coroutines. Cancelling one stops waiting for it; the call itself goes on to its end or
    deadline, and the next one starts after it.
    """

    def __init__(self, sync: Client) -> None:
        self.sync = sync
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"ps client {sync.rank}")

    @property
    def rank(self) -> int:
        return self.sync.rank

    @property
    def size(self) -> int:
        return self.sync.size

    @property
    def clock(self) -> int:
        return self.sync.clock

    @property
    def seed(self) -> int:
        return self.sync.seed

    @property
    def lr(self) -> float:
        return self.sync.lr

    @property
    def should_stop(self) -> Awaitable[bool]:
        """As Client.should_stop: `if await client.should_stop: ...`."""
        return self._call(lambda: self.sync.should_stop)

    async def register(
        self, values: Mapping[str, Array], options: Mapping[str, Options] | None = None, *, timeout: float | None = None
    ) -> dict[str, Array]:
        """As Client.register."""
        return await self._call(self.sync.register, values, options, timeout=timeout)

    async def pull(
        self,
        names: list[str] | None = None,
        *,
        out: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """As Client.pull."""
        return await self._call(self.sync.pull, names, out=out, timeout=timeout)

    async def push(
        self, grads: Gradients, weight: float = 1.0, *, copy: bool = True, timeout: float | None = None
    ) -> PushFuture:
        """As Client.push; await `verdict(future)` for what became of it."""
        return await self._call(self.sync.push, grads, weight, copy=copy, timeout=timeout)

    async def verdict(self, future: PushFuture, timeout: float | None = None) -> dict[str, Verdict]:
        """As PushFuture.result."""
        return await self._call(future.result, timeout)

    async def push_pull(
        self,
        grads: Gradients,
        weight: float = 1.0,
        *,
        out: Mapping[str, Array] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """As Client.push_pull."""
        return await self._call(self.sync.push_pull, grads, weight, out=out, timeout=timeout)

    async def tick(self, *, timeout: float | None = None) -> None:
        """As Client.tick."""
        await self._call(self.sync.tick, timeout=timeout)

    async def barrier(self, *, timeout: float | None = None) -> None:
        """As Client.barrier."""
        await self._call(self.sync.barrier, timeout=timeout)

    async def log(self, **values: SupportsFloat) -> None:
        """As Client.log."""
        await self._call(self.sync.log, **values)

    async def set_lr(self, lr: float, at_clock: int | None = None) -> None:
        """As Client.set_lr."""
        await self._call(self.sync.set_lr, lr, at_clock)

    async def stop(self, reason: str) -> None:
        """As Client.stop."""
        await self._call(self.sync.stop, reason)

    async def close(self, error: str = "", *, timeout: float | None = None) -> None:
        """As Client.close; the thread of the calls ends with it."""
        try:
            await self._call(self.sync.close, error, timeout=timeout)
        finally:
            self.end_thread()

    def end_thread(self) -> None:
        """Ends the thread of the calls, and leaves the client open: whoever made it closes it."""
        self._thread.shutdown(cancel_futures=True)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        await self.close("" if error is None else f"{type(error).__name__}: {error}")

    async def _call(self, do: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: do(*args, **kwargs))
