"""The controller's side of the control plane: a gRPC server around the core."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from ps.config import RunConfig
from ps.control import control_pb2 as pb
from ps.control import loop as loops
from ps.control.hello import HELLO_S
from ps.control.hub import FLUSH_S, Hub
from ps.control.jobs import Jobs, WorkerEnd
from ps.control.lines import Line
from ps.control.logs import Logged
from ps.control.rpc import OPTIONS, SERVICE, add_port, aio, grpc
from ps.errors import ConfigError
from ps.key import Key
from ps.keyspace import Parameter
from ps.messages import TEXT_MAX
from ps.wire import JOB_BYTES

CALL_S = 10.0  # the loop only hands over; when it takes longer than this something is badly wrong

T = TypeVar("T")


class ControlServer:
    """One run's controller, reachable by its servers, workers, readers and commands. Thread-safe.

    host: where it listens; port 0: any free one. job: the run's 16-byte id, else a new one. hello_s: a peer has so
    long to say who it is, and then for all servers to be there. hold: at an end that is no failure servers and readers
    stay until `release`, so that the values can be saved; workers leave as always. takes_jobs: agents may join, and a
    job be submitted to them; the owner calls `look_at_job` again and again, and `end_job` at the end.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        job: bytes | None = None,
        hello_s: float = HELLO_S,
        hold: bool = False,
        takes_jobs: bool = False,
        key: Key | None = None,
    ) -> None:
        self.job = secrets.token_bytes(JOB_BYTES) if job is None else job
        if len(self.job) != JOB_BYTES:
            raise ConfigError(f"job: expected {JOB_BYTES} bytes, got {len(self.job)}")
        self._host, self._port = f"[{host}]" if ":" in host else host, port
        self._key = key
        self._address = ""
        self._over = threading.Event()
        self._hub = Hub(config, self.job, hello_s, self._over.set, hold)
        self._jobs = Jobs(self._hub, takes_jobs)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: aio.Server | None = None
        self._lock = threading.Lock()  # start and close

    # ---- for any thread ---------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Listens. Returns: "host:port". Raises: ConfigError naming the port when it cannot be had."""
        with self._lock:
            assert self._loop is None, "started twice"
            loop = loops.enter()
            try:
                loops.call(loop, self._listen(), CALL_S, f"listening on {self._host}:{self._port}")
            except BaseException:
                loops.leave()
                raise
            self._loop = loop
        return self._address

    @property
    def address(self) -> str:
        """ "host:port" once it listens, else empty."""
        return self._address

    @property
    def outcome(self) -> tuple[str, bool] | None:
        """Why the job ended, and whether it failed; None while it runs."""
        return self._hub.outcome

    def status(self) -> dict[str, Any]:
        """What the cluster is doing, in builtin types.

        workers: rank, state, clock, logged, silent_s (-1: never heard). servers: shard, address, state (expected,
        running, lost, done). stopped: why, or None. failed. skipped_examples: data epoch -> examples. began_at:
        when the first clock of all was finished, by time.monotonic(), or None. metrics: peer -> what it sent last.
        refused: peers that could not join. rejected: frames that did not hold.
        dropped_logs: `client.log` calls that nobody took in time. release, wire_version and unix_time (s)
        of the controller. agents: host, pid, directory, rank (-1: none), state (waiting, running, ended). submitted:
        script, args, by, begun of the job that was submitted, or None.
        """
        return self._in_loop(self._report)

    def parameters(self) -> list[Parameter]:
        """All that were registered so far."""
        return self._in_loop(lambda: list(self._hub.core.batches.keyspace.parameters))

    def script_optimizer(self) -> str:
        """The server optimizer that the script has brought; empty: none."""
        return self._in_loop(lambda: self._hub.core.batches.optimizer)

    def stop(self, reason: str, failed: bool = False) -> None:
        """Ends the job: workers finish their clock, then everybody is told goodbye. The second does nothing."""
        self._in_loop(lambda: self._hub.stop(reason, failed))

    def release(self) -> None:
        """Nobody needs the values any more: see `hold`. Before the end: it will then not be held."""
        self._in_loop(self._hub.release)

    def take_logs(self) -> list[Logged]:
        """Everything that workers have logged since the last call, in the order in which it came."""
        return self._in_loop(self._hub.logs.take)

    def worker_lost(self, rank: int, why: str) -> None:
        """This worker's process is known to be gone. Nothing happens when it has finished."""
        self._in_loop(lambda: self._hub.worker_lost(rank, why))

    def server_lost(self, shard: int, why: str) -> None:
        """This server's process is known to be gone: the job ends as failed."""
        self._in_loop(lambda: self._hub.server_lost(shard, why))

    def look_at_job(self) -> list[WorkerEnd]:
        """What has become of the submitted job's workers since the last call; begins it once everybody is there."""
        return self._in_loop(self._jobs.look)

    def reopen(self, rank: int) -> None:
        """This worker of the submitted job is lost, and waited for: the next free agent takes its place."""
        self._in_loop(lambda: self._jobs.reopen(rank))

    def tell_followers(self, text: str, progress: bool = False) -> None:
        """A line for those who have submitted the job."""
        self._in_loop(lambda: self._jobs.tell(text, progress))

    def end_job(self, reason: str, failed: bool, exit_code: int, seconds: float, last_words: list[str]) -> None:
        """How the submitted job has ended, for those who follow it and for agents."""
        end = pb.JobEnd(reason=reason, exit_code=exit_code, seconds=seconds, last_words=last_words)
        self._in_loop(lambda: self._jobs.end(end, failed))

    def wait(self, timeout: float) -> bool:
        """Whether, within `timeout` seconds, the job is over and every peer's stream has ended with its goodbye."""
        return self._over.wait(timeout)

    def close(self) -> None:
        """Ends the job if it runs, says goodbye for at most 2 s, and ends the thread. The second call does nothing."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is None:
                return
            try:
                loops.call(loop, self._shut(), FLUSH_S + CALL_S, f"closing the controller at {self._address}")
            finally:
                loops.leave()

    def _in_loop(self, ask: Callable[[], T]) -> T:
        """What `ask` says of the hub, asked in its thread. Raises: DeadlineError; ConfigError when it does not run."""

        async def asked() -> T:
            return ask()

        loop = self._loop
        if loop is None:
            if self.outcome is not None:  # it was closed, and nothing changes any more
                return ask()
            raise ConfigError("controller: expected a started one, got one that does not run; call start() first")
        return loops.call(loop, asked(), CALL_S, f"the controller at {self._address}")

    # ---- in the loop's thread ---------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        server = aio.server(options=OPTIONS)
        handlers = {
            "Join": grpc.stream_stream_rpc_method_handler(self._join),
            "Status": grpc.unary_unary_rpc_method_handler(self._status),
            "Stop": grpc.unary_unary_rpc_method_handler(self._stop),
            "Agent": grpc.stream_stream_rpc_method_handler(self._agent),
            "Submit": grpc.unary_stream_rpc_method_handler(self._submit),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = add_port(server, f"{self._host}:{self._port}", self._key)
        if port == 0:
            raise ConfigError(
                f"port: expected one that is free on {self._host}, got {self._port}, which cannot be listened on "
                "(another program has it, or the host is not this machine's); choose another, or 0 for any"
            )
        await server.start()
        self._server, self._address = server, f"{self._host}:{port}"

    async def _shut(self) -> None:
        if self._hub.outcome is None:
            self._hub.stop("the controller was closed", failed=True)
            self._hub.finish()
        if self._hub.outcome is not None:
            reason, failed = self._hub.outcome
            self._jobs.end(pb.JobEnd(reason=reason, exit_code=int(failed)), failed)
        server, self._server = self._server, None
        assert server is not None
        await server.stop(FLUSH_S)

    async def _join(self, frames: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> None:
        line = self._hub.open()
        tasks = [
            asyncio.create_task(work)
            for work in (self._read(line, frames), self._write(line, context), line.cut.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if line.state == "over":  # the peer may have hung up at once; else its last frame is to be written
                await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._hub.closed(line)
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, line: Line, frames: AsyncIterator[bytes]) -> None:
        async for raw in frames:
            self._hub.receive(line, raw)

    async def _write(self, line: Line, context: aio.ServicerContext[bytes, bytes]) -> None:
        while (frame := await line.outbox.take()) is not None:
            await context.write(frame)

    async def _agent(self, frames: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]) -> None:
        await self._jobs.serve_agent(frames, context.write)

    async def _submit(self, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> None:
        await self._jobs.serve_submit(request, context.write)

    def _report(self) -> dict[str, Any]:
        return {**self._hub.status(), **self._jobs.status()}

    async def _status(self, request: bytes, context: object) -> bytes:
        reply = pb.StatusReply(json=json.dumps(self._report()))
        return reply.SerializeToString()  # type: ignore[no-any-return]

    async def _stop(self, request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            asked = pb.StopRequest.FromString(request)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected a StopRequest of proto/control.proto")
        self._hub.stop(asked.reason[:TEXT_MAX], asked.failed)
        return pb.StopReply().SerializeToString()  # type: ignore[no-any-return]
