"""A reader: pulls snapshots, counts in no clock, gate or quorum (evaluation, serving, hand-off)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ps import wire
from ps.config import RunConfig
from ps.consistency import Cadence
from ps.errors import DeadlineError, OutboxFull, StoppedError
from ps.keyspace import Keyspace
from ps.messages import Enroll, Enrolled, Place, Read, Stop, Values
from ps.transport.base import Message, Unreachable
from ps.types import CONTROLLER, Array, PeerId, WorkerId, server_peer
from ps.worker.arrays import Arrays
from ps.worker.port import Port


class Reader:
    """Pulls the current values; each slice is exactly one version, slices may differ in theirs."""

    def __init__(self, port: Port, job: bytes, timeout_s: float = 60.0) -> None:
        self._port, self._job = port, job
        self._keyspace = Keyspace()
        self._shard_S: list[int] = []
        self._config: RunConfig | None = None
        self._stopped: Stop | None = None
        self._wanted: dict[int, tuple[set[int], Mapping[str, Array]]] = {}  # read id -> (slices, arrays to fill)
        self._next_id = 1
        self._arrays = Arrays(self._keyspace, Cadence(), keeps_replica=False)
        self._begin(timeout_s)
        self._post(CONTROLLER, Enroll(WorkerId(-1), True, 0))
        self._wait(lambda: self._config is not None, "the controller has not answered Enroll")

    @property
    def config(self) -> RunConfig:
        """The run's, as the controller told it."""
        assert self._config is not None
        return self._config

    @property
    def should_stop(self) -> bool:
        """True once the job has ended: a last look at the values, then leave."""
        self._take_in()
        return self._stopped is not None

    @property
    def names(self) -> list[str]:
        """Names of the parameters registered so far."""
        self._take_in()
        return list(self._keyspace.index_of)

    def pull(self, names: Iterable[str] | None = None, *, timeout: float | None = None) -> dict[str, Array]:
        """The current values of these parameters (all without names), in their registered dtype.

        Waits until workers have registered parameters and given them initial values. timeout: seconds, by default the
        run's timeout_s. Raises: ConfigError for an unknown name; DeadlineError naming the server that does not answer;
        StoppedError when the job ended before anything was registered, or when its failure took the values along.
        """
        self._begin(self.config.timeout_s if timeout is None else timeout)
        self._take_in()
        self._wait(lambda: bool(self._shard_S), "no worker has registered parameters", unless_stopped=True)
        wanted = self._keyspace.names(names)
        ids = np.array(self._keyspace.slice_ids(wanted), np.int64)
        outputs = self._arrays.outputs(wanted, None)
        shard_E = np.array(self._shard_S, np.int64)[ids]
        mine: dict[int, int] = {}  # read id -> shard
        for shard in np.unique(shard_E):
            mine[self._next_id] = int(shard)
            self._wanted[self._next_id] = (set(ids[shard_E == shard].tolist()), outputs)
            self._next_id += 1
        try:
            while waiting := [i for i in mine if i in self._wanted]:
                silent = ", ".join(f"server {mine[i]}" for i in waiting)
                for i in waiting:
                    self._ask(mine[i], Read(i, np.array(sorted(self._wanted[i][0]))))
                again = self._port.now() + self.config.resend_s
                self._wait(lambda: not any(i in self._wanted for i in mine), f"no answer from {silent}", again)
        finally:
            for i in mine:
                self._wanted.pop(i, None)
        return outputs

    def close(self) -> None:
        """Ends the reader; nobody waits for it."""
        self._port.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, timeout_s: float) -> None:
        self._timeout_s, self._deadline = timeout_s, self._port.now() + timeout_s

    def _wait(
        self, done: Callable[[], bool], missing: str, again: float = float("inf"), unless_stopped: bool = False
    ) -> None:
        """Takes in messages until `done()`, or the time `again` has come."""
        while not done() and self._port.now() < again:
            if unless_stopped and self._stopped is not None:
                raise StoppedError(f"read: {missing}, and the job has stopped: {self._stopped.reason}")
            if self._port.now() >= self._deadline:
                why = "" if self._stopped is None else f"; the job has stopped: {self._stopped.reason}"
                raise DeadlineError(f"read: after {self._timeout_s:g} s {missing}{why}")
            self._receive(self._port.recv(min(self._deadline, again)))

    def _take_in(self) -> None:
        while (item := self._port.recv(0.0)) is not None:
            self._receive(item)

    def _receive(self, item: tuple[PeerId, Message] | None) -> None:
        if item is None:
            return
        *small, last = wire.decode(item[1].header, self._job)
        for body in small:
            self._take(body, ())
        self._take(last, item[1].buffers)
        item[1].release()

    def _take(self, body: Any, buffers: Sequence[Array]) -> None:
        match body:
            case Enrolled():
                self._config = RunConfig.model_validate_json(body.config)
            case Stop():
                self._stopped = body
            case Place():
                self._keyspace.extend([spec.parameter() for spec in body.specs])
                self._shard_S.extend(body.shard_E.tolist())
            case Values() if body.id in self._wanted:
                left, outputs = self._wanted[body.id]
                for slice_id, buffer in zip(body.slice_E.tolist(), buffers, strict=True):
                    self._arrays.deliver(slice_id, buffer.view(self._keyspace.slices[slice_id].dtype), outputs)
                left.difference_update(body.slice_E.tolist())
                if not left:
                    del self._wanted[body.id]
            case _:
                pass

    def _ask(self, shard: int, read: Read) -> None:
        """Asks again later while it is silent; gives up when it is gone and the job with it."""
        if not self._post(server_peer(shard), read) and self._stopped is not None and self._stopped.failed:
            raise StoppedError(f"read: server {shard} is gone; the job has stopped: {self._stopped.reason}")

    def _post(self, to: PeerId, body: Any) -> bool:
        """False when there is no such peer (any more)."""
        message = Message(wire.encode(self._job, body))
        try:
            self._port.send_nowait(to, message)
        except OutboxFull:
            message.release()  # asked again; the deadline names the peer
        except Unreachable:
            message.release()
            return False
        return True
