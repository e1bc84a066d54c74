"""The one event loop of this process's control connections, in a daemon thread that lives as long as any of them.

One for all, because gRPC's asyncio side hands events to the loops of a process through a single queue and socket: two
loops in two threads race for them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

from ps.errors import ConfigError, DeadlineError

END_S = 3.0  # tasks that are left when the last connection closes have so long to end; then the thread is left behind

T = TypeVar("T")

_lock = threading.Lock()
_users = 0
_pid = 0
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def enter() -> asyncio.AbstractEventLoop:
    """The loop, started for its first user. Each call is paid back by one `leave`.

    Raises: ConfigError in a process that was forked while its parent had control connections.
    """
    global _users, _pid, _loop, _thread
    with _lock:
        check_process(_pid or os.getpid())
        if _loop is None:
            _pid, _loop = os.getpid(), uvloop.new_event_loop()
            _thread = threading.Thread(target=_run, args=(_loop,), name="ps control", daemon=True)
            _thread.start()
        _users += 1
        return _loop


def leave() -> None:
    """Ends the loop after its last user, and waits for its thread unless that is the caller."""
    global _users, _pid, _loop, _thread
    with _lock:
        _users -= 1
        if _users or _loop is None or _thread is None:
            return
        ending, _pid, _loop, _thread = (_loop, _thread), 0, None, None
        ending[0].call_soon_threadsafe(ending[0].stop)
        if threading.current_thread() is not ending[1]:
            ending[1].join(2 * END_S)


def check_process(pid: int) -> None:
    """Raises: ConfigError when this is not the process with that id."""
    if pid != os.getpid():
        raise ConfigError(
            f"control connection: expected to be used in process {pid} that opened it, got process {os.getpid()}; "
            "a connection does not survive a fork: start processes by `spawn`, or connect in each of them"
        )


def is_here() -> bool:
    """Whether the caller is the loop's own thread, which must not wait for itself."""
    return threading.current_thread() is _thread


def call(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], timeout: float, what: str) -> T:
    """Runs `work` in the loop and waits for it. Raises: what it raises; DeadlineError naming `what`."""
    running = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return running.result(timeout)
    except TimeoutError:
        running.cancel()
        raise DeadlineError(f"{what} has not answered in {timeout:g} s") from None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=END_S))
        gc.collect()  # gRPC ends its own thread with the last of its objects, which needs this loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()
