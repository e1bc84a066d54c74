"""A cluster in virtual time: the same cores and runtimes, one event after the other, repeatable from a seed."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from ps.client import run_client
from ps.config import RunConfig
from ps.controller.build import build_controller
from ps.controller.runtime import ControllerRuntime
from ps.server.build import build_server
from ps.server.ledger import Commit, Record
from ps.server.runtime import Server
from ps.sim.links import LinkFaults, Links
from ps.sim.scripts import Script
from ps.transport.base import Message
from ps.types import CONTROLLER, PeerId, server_peer, worker_peer

JOB = b"simulated job 00"
KILLED = "its process was killed"


class Simulator:
    """Servers, a controller and worker scripts on seeded links.

    apply_s: virtual seconds that one apply takes at most (uniform); 0: none. Followers of every shard are fed from
    the first event when `followers` is set. `watch(shard, record)` sees the log of every shard, in order. record: the
    folder where servers write down what they apply, until `close`.
    """

    def __init__(
        self,
        config: RunConfig,
        faults: LinkFaults = LinkFaults(),
        *,
        seed: int = 0,
        apply_s: float = 0.0,
        followers: bool = False,
        watch: Callable[[int, Record], None] | None = None,
        record: Path | None = None,
    ) -> None:
        self.config, self.seed, self.apply_s = config, seed, apply_s
        self.random = Random(seed)
        self.links = Links(faults, self.random)
        self.now = 0.0
        self.turn = threading.Semaphore(0)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._under_way = 0  # messages and applies that have not arrived yet
        self._controller_timer = float("inf")
        self.controller = ControllerRuntime(build_controller(config), JOB, self._sender(CONTROLLER))
        self.servers: dict[int, Server] = {}
        for shard in range(config.servers):
            self.servers[shard] = build_server(
                config,
                shard,
                JOB,
                self._sender(server_peer(shard)),
                follower=followers,
                defer=self._deferrer(shard) if apply_s else None,
                watch=None if watch is None else partial(watch, shard),
                clock=lambda: self.now,
                record=record,
            )
        self.scripts: dict[PeerId, Script] = {}

    # ---- building ---------------------------------------------------------------------------------------------------

    def run_worker(self, rank: int, train: Callable[[Any], Any]) -> Script:
        """Starts (or restarts) the worker of this rank now."""
        return self.spawn(worker_peer(rank), lambda script: run_client(script, JOB, rank, train))

    def spawn(self, address: PeerId, body: Callable[[Script], Any]) -> Script:
        """A script that talks on the network under this address."""
        script = Script(self, address, body)
        self.scripts[address] = script
        self.at(self.now, script.start)
        return script

    def kill_worker(self, rank: int, notice: bool = True) -> None:
        """The worker's process dies at once. notice: the controller is told (else its lease must tell)."""
        script = self.scripts[worker_peer(rank)]
        if script.is_over or script.is_killed:
            return
        script.is_killed = True
        script.drain()
        self.at(self.now, lambda: None if script.is_over else script.resume())
        if notice:  # behind what it has said
            [arrival] = self.links.arrivals(script.address, CONTROLLER, self.now)
            self._under_way += 1
            self.at(arrival, lambda: self._tell_of_death(rank))

    def kill_server(self, shard: int) -> None:
        """The server's process dies with all it holds."""
        if (server := self.servers.pop(shard, None)) is not None:
            server.close(killed=True)
            sends = self.controller.core.server_lost(shard, KILLED, self.now)
            self.at(self.now, lambda: self._control(sends))

    def contents(self) -> list[bytes]:
        """Values and optimizer state of all servers."""
        return [part for _, server in sorted(self.servers.items()) for part in server.values.contents()]

    def close(self) -> None:
        """Ends what servers write down."""
        for server in self.servers.values():
            server.close()

    # ---- running ----------------------------------------------------------------------------------------------------

    def at(self, time: float, do: Callable[[], None]) -> None:
        """Does something at a virtual time; equal times in the order of asking."""
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, do))

    @property
    def is_quiet(self) -> bool:
        """All scripts are over and nothing is under way: the last words of a worker count."""
        if not self._heap:
            return True
        return self._under_way == 0 and all(script.is_over for script in self.scripts.values())

    def run(self, until: Callable[[], bool] | None = None, events_max: int = 50_000_000) -> None:
        """Runs until everything is quiet, or `until()` holds."""
        for _ in range(events_max):
            if self.is_quiet if until is None else not self._heap or until():
                return
            self.step()
        raise AssertionError(f"seed {self.seed}: no end after {events_max} events at {self.now:.3f} s")

    def step(self) -> None:
        """One event."""
        time, _, do = heapq.heappop(self._heap)
        self.now = max(self.now, time)
        do()

    # ---- the network ------------------------------------------------------------------------------------------------

    def send(self, sender: PeerId, to: PeerId, message: Message) -> None:
        """Puts a message on its link."""
        arrivals = self.links.arrivals(sender, to, self.now)
        if not arrivals:
            message.release()
        for copy, time in enumerate(arrivals):
            one = Message(message.header, [buffer.copy() for buffer in message.buffers]) if copy else message
            self._under_way += 1
            self.at(time, lambda one=one: self._deliver(sender, to, one))  # type: ignore[misc]

    def _deliver(self, sender: PeerId, to: PeerId, message: Message) -> None:
        self._under_way -= 1
        if to == CONTROLLER:
            self.controller.receive(sender, message, self.now)
            self._set_controller_timer()
        elif to.startswith("server:"):
            server = self.servers.get(int(to[7:]))
            if server is None:
                message.release()
            else:
                server.receive(sender, message, self.now)
        else:
            self._deliver_to_script(sender, self.scripts.get(to), message)

    def _deliver_to_script(self, sender: PeerId, script: Script | None, message: Message) -> None:
        if script is None or script.is_closed or script.is_killed:
            message.release()
            return
        script.inbox.append((sender, message))
        if script.waits_for_mail:
            script.resume()

    def _sender(self, address: PeerId) -> Callable[[PeerId, Message], None]:
        return lambda to, message: self.send(address, to, message)

    def _deferrer(self, shard: int) -> Callable[[list[Commit]], None]:
        def defer(commits: list[Commit]) -> None:
            self._under_way += 1
            self.at(self.now + self.random.random() * self.apply_s, lambda: self._finish(shard, commits))

        return defer

    def _finish(self, shard: int, commits: list[Commit]) -> None:
        self._under_way -= 1
        if shard in self.servers:
            self.servers[shard].finish(commits, self.now)

    def _tell_of_death(self, rank: int) -> None:
        self._under_way -= 1
        self._control(self.controller.core.worker_lost(rank, KILLED, self.now))

    def _control(self, sends: Any) -> None:
        self.controller.perform(sends)
        self._set_controller_timer()

    def _set_controller_timer(self) -> None:
        time = self.controller.core.next_timer()
        if time < self._controller_timer:
            self._controller_timer = time
            self.at(time, self._controller_due)

    def _controller_due(self) -> None:
        self._controller_timer = float("inf")
        self.controller.on_timer(self.now + 1e-9)
        self._set_controller_timer()
