"""A peer's side of the control plane: one connection to the controller, used from plain threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import Any

from ps.control import loop as loops
from ps.control.frames import (
    Body,
    FromController,
    Leaving,
    MetricsJson,
    ToController,
    read_from_controller,
    to_controller,
)
from ps.control.hello import Goodbye, Hello, LinkEnd, Refusal, Welcome
from ps.control.lines import Outbox
from ps.control.other_key import KEY_S, check_key
from ps.control.rpc import SERVICE, aio, aio_channel, grpc
from ps.errors import ConfigError, DeadlineError, FrameError, OutboxFull, PeerError, StoppedError
from ps.key import Key
from ps.transport.base import Unreachable
from ps.wire import HEADER_BYTES_MAX

CLOSE_S = 2.0  # `close` waits so long for the controller to take what was sent
REDIAL_S = 0.1
WAY_S = 5.0  # beyond a deadline: what the loop's thread may be late

_UP_LATER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)


class ControlLink:
    """Dials the controller, again until it is there, and returns once it has said Welcome.

    on_message: each control message, encoded. on_end: once, when the controller says goodbye or is gone; not after
    `close`. Both are called in the link's thread, from Welcome on, maybe
    before the constructor has returned: they only hand over.
    timeout_s: seconds until Welcome; servers must have come by then.

    Raises: ConfigError when the controller refuses, OtherKey within seconds when it has another key; StoppedError when
    its job is over; DeadlineError naming the address when it does not answer in time; PeerError when its Welcome does
    not hold.
    """

    def __init__(
        self,
        address: str,
        hello: Hello,
        on_message: Callable[[bytes], None],
        on_end: Callable[[LinkEnd], None],
        timeout_s: float = 60.0,
        key: Key | None = None,
    ) -> None:
        self.address, self.hello = address, hello
        self.rejected = 0  # frames of the controller that were none
        self._on_message, self._on_end, self._timeout_s = on_message, on_end, timeout_s
        self._key, self._pid = key, os.getpid()
        self._lock = threading.Lock()
        self._pending = 0  # bytes sent and not yet taken by the stream
        self._ended = ""  # why nothing can be sent any more
        self._reached = False
        self._outbox = Outbox()
        self._closing = asyncio.Event()
        self._left = False  # it was closed
        self._welcomed: Future[Welcome] = Future()
        self._loop = loops.enter()
        self._life = asyncio.run_coroutine_threadsafe(self._live(), self._loop)
        try:
            self.welcome: Welcome = self._welcomed.result(timeout_s + WAY_S)
        except FutureTimeout:
            self.close()
            raise DeadlineError(self._silence()) from None
        except BaseException:
            self.close()
            raise

    def send(self, header: bytes) -> None:
        """Hands over a control message in the encoding of ps.wire; never waits.

        Raises: Unreachable once the stream has ended; OutboxFull when 64 MiB are not yet taken; ConfigError in another
        process than the one that connected.
        """
        self._post(Body(header))

    def metrics(self, json: str) -> None:
        """Hands over what this peer measured: the JSON of a snapshot in builtin types. Raises: as `send`."""
        self._post(MetricsJson(json))

    def leaving(self, why: str) -> None:
        """Says why this peer is about to close: its loss is put down to that. Raises: as `send`."""
        self._post(Leaving(why))

    def close(self) -> None:
        """Ends the connection once the controller has taken what was sent, after at most 2 s. Twice is once.

        Raises: ConfigError in another process than the one that connected.
        """
        loops.check_process(self._pid)
        with self._lock:
            if self._left:
                return
            self._left = True
            self._ended = self._ended or "this link was closed"
        self._loop.call_soon_threadsafe(self._closing.set)
        try:
            if not loops.is_here():
                self._life.result(CLOSE_S + WAY_S)
        except Exception:  # whatever it died of, it has been said by `welcome` or `on_end`
            self._life.cancel()
        finally:
            loops.leave()

    def _post(self, frame: ToController) -> None:
        loops.check_process(self._pid)
        raw = to_controller(frame)
        with self._lock:  # the order of `send` is the order on the wire
            if self._ended:
                raise Unreachable(f"controller: {self._ended}")
            if self._pending and self._pending + len(raw) > HEADER_BYTES_MAX:
                raise OutboxFull(f"controller at {self.address}: {self._pending} bytes are not yet taken")
            self._pending += len(raw)
            self._loop.call_soon_threadsafe(self._outbox.put, raw)

    # ---- in the loop's thread ---------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """The connection from the first dial to its end."""
        channel = aio_channel(self.address, self._key)
        try:
            call = await self._unless_closing(self._join_or_other_key(channel))
            if call is not None:
                await self._talk(call)
        except BaseException as error:
            if self._welcomed.done():
                raise
            self._welcomed.set_exception(error)
        finally:
            await channel.close()

    async def _unless_closing(self, work: Any) -> Any:
        """What `work` gives; None when `close` comes first."""
        tasks = [asyncio.ensure_future(work), asyncio.create_task(self._closing.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].result() if tasks[0].done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _join_or_other_key(self, channel: aio.Channel) -> Any:
        """As `_join`, which cannot tell another key from nobody."""
        tasks = [asyncio.ensure_future(self._join(channel)), asyncio.create_task(self._look_at_key())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task in done).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_at_key(self) -> None:
        """Raises: OtherKey once that is why nobody has answered for a while."""
        while True:
            await asyncio.sleep(KEY_S)
            if not self._reached:
                await asyncio.to_thread(check_key, self.address, self._key)

    async def _join(self, channel: aio.Channel) -> Any:
        """The stream on which the controller has said Welcome. Raises: as the class."""
        dial = channel.stream_stream(f"/{SERVICE}/Join")
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    call = dial(wait_for_ready=True)
                    try:
                        await call.write(to_controller(self.hello))
                        self._reached = True
                        raw = await call.read()
                        if raw is not aio.EOF:
                            self._welcomed.set_result(self._admitted(read_from_controller(raw)))
                            return call
                        code = await call.code()
                    except aio.AioRpcError as error:
                        code = error.code()
                    except asyncio.InvalidStateError:  # a write on a call that has ended
                        code = await call.code()
                    if code not in _UP_LATER:
                        raise ConfigError(f"controller: expected one at {self.address}, got gRPC status {code.name}")
                    self._reached = False
                    await asyncio.sleep(REDIAL_S)
        except TimeoutError:
            raise DeadlineError(self._silence()) from None
        except FrameError as error:
            raise PeerError(f"controller at {self.address}: {error}; run one release everywhere") from None

    def _silence(self) -> str:
        if self._reached:
            return f"the controller at {self.address} has taken no {self.hello.role} in {self._timeout_s:g} s"
        return f"no controller answers at {self.address} in {self._timeout_s:g} s; start it, or check the address"

    def _admitted(self, frame: FromController) -> Welcome:
        match frame:
            case Welcome():
                return frame
            case Refusal():
                raise ConfigError(str(frame))
            case Goodbye(reason):
                raise StoppedError(reason)
            case _:
                raise FrameError("expected Welcome, got another frame")

    async def _talk(self, call: Any) -> None:
        """Until the stream's end, or until `close` and what was sent before it is through."""
        reading, writing = asyncio.create_task(self._read(call)), asyncio.create_task(self._write(call))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({reading, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                self._outbox.end()  # the writer then says that no more comes, and the controller hangs up
                await asyncio.wait({reading}, timeout=CLOSE_S)
        finally:
            for task in (reading, writing, closing):
                task.cancel()
            call.cancel()
            await asyncio.gather(reading, writing, closing, return_exceptions=True)

    async def _read(self, call: Any) -> None:
        end = LinkEnd(f"the controller at {self.address} is gone", failed=True, gone=True)
        try:
            while (raw := await call.read()) is not aio.EOF:
                try:
                    frame = read_from_controller(raw)
                except FrameError:
                    self.rejected += 1
                    continue
                if isinstance(frame, Body):
                    self._on_message(frame.encoded)
                elif isinstance(frame, Goodbye):
                    end = LinkEnd(frame.reason, frame.failed, gone=False)
                    break
        except aio.AioRpcError as error:
            end = replace(end, reason=f"{end.reason} ({error.code().name})")
        except Exception as error:  # of on_message: the owner would wait for messages that never come
            why = f"the owner of the control link failed: {type(error).__name__}: {error}"
            end = LinkEnd(why, failed=True, gone=True)
        with self._lock:
            if self._left:
                return
            self._ended = end.reason
        self._on_end(end)

    async def _write(self, call: Any) -> None:
        try:
            while (raw := await self._outbox.take()) is not None:
                await call.write(raw)
                with self._lock:
                    self._pending -= len(raw)
            await call.done_writing()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream has ended; the reader says so
