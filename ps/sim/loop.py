"""A cluster in virtual time: the same cores and runtimes, one event after the other, repeatable from a seed."""

from __future__ import annotations

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
from ps.messages import Stop
from ps.server.build import build_server
from ps.server.ledger import Commit, Record
from ps.server.runtime import Server
from ps.sim.links import LinkFaults, Links
from ps.sim.network import Network, Processor, Wires
from ps.sim.scripts import Script
from ps.sim.staleness import Imposed
from ps.sim.timeline import Timeline
from ps.transport.base import Message
from ps.types import CONTROLLER, PeerId, server_peer, worker_peer

JOB = b"simulated job 00"
KILLED = "its process was killed"


class Simulator(Timeline):
    """Servers, a controller and worker scripts on seeded links.

    network: what bytes and work cost; None: nothing. What `faults` do to a message comes behind its time on the wire;
    without `faults` links have a delay of their own only where there is no network.
    staleness: imposed on the pushes of a single asynchronous worker, see `ps.sim.staleness`.
    apply_s: virtual seconds that one apply takes at most (uniform), instead of what the network says; 0: as it says.
    Followers of every shard are fed from the first event when `followers` is set. `watch(shard, record)` sees the log
    of every shard, in order. record: the folder where servers write down what they apply, until `close`.
    """

    def __init__(
        self,
        config: RunConfig,
        faults: LinkFaults | None = None,
        *,
        seed: int = 0,
        network: Network | None = None,
        staleness: str | None = None,
        apply_s: float = 0.0,
        followers: bool = False,
        watch: Callable[[int, Record], None] | None = None,
        record: Path | None = None,
    ) -> None:
        super().__init__()
        self.config, self.seed, self.apply_s = config, seed, apply_s
        self.random = Random(seed)
        if faults is None:
            faults = LinkFaults() if network is None else LinkFaults(delay_s=0.0, jitter_s=0.0)
        self.links = Links(faults, self.random)
        self.wires = None if network is None else Wires(network, self)
        self.turn = threading.Semaphore(0)
        self._imposed = None if staleness is None else Imposed(staleness, config, seed)
        self._watch = watch
        self._under_way = 0  # messages and applies that have not arrived yet
        self._controller_timer = float("inf")
        self.controller = ControllerRuntime(build_controller(config), JOB, self._sender(CONTROLLER))
        self.processors = [Processor(self) for _ in range(config.servers)]
        self.servers: dict[int, Server] = {}
        for shard in range(config.servers):
            self.servers[shard] = build_server(
                config,
                shard,
                JOB,
                self._sender(server_peer(shard)),
                follower=followers,
                defer=self._deferrer(shard),
                watch=None if watch is None and staleness is None else partial(self._see, shard),
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

    def stop(self, reason: str, failed: bool) -> None:
        """Ends the job, now."""
        self.controller.perform(self.controller.core.handle(CONTROLLER, Stop(reason, failed), self.now))

    def contents(self) -> list[bytes]:
        """Values and optimizer state of all servers."""
        return [part for _, server in sorted(self.servers.items()) for part in server.values.contents()]

    def close(self) -> None:
        """Ends what servers write down."""
        for server in self.servers.values():
            server.close()

    # ---- running ----------------------------------------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """All scripts are over and nothing is under way: the last words of a worker count."""
        if self.is_empty:
            return True
        return self._under_way == 0 and all(script.is_over for script in self.scripts.values())

    def run(self, until: Callable[[], bool] | None = None, events_max: int = 50_000_000) -> None:
        """Runs until everything is quiet, or `until()` holds."""
        for _ in range(events_max):
            if self.is_quiet if until is None else self.is_empty or until():
                return
            self.step()
        raise AssertionError(f"seed {self.seed}: no end after {events_max} events at {self.now:.3f} s")

    # ---- the network ------------------------------------------------------------------------------------------------

    def send(self, sender: PeerId, to: PeerId, message: Message) -> None:
        """Puts a message on its way."""
        if self._imposed is not None and sender.startswith("server:") and to.startswith("worker:"):
            message = self._imposed.aged(JOB, message)
        if self.wires is None:
            self._link(sender, to, message)
            return
        self._under_way += 1
        self.wires.carry(sender, to, message.nbytes, lambda: self._link(sender, to, message, 1))

    def _link(self, sender: PeerId, to: PeerId, message: Message, carried: int = 0) -> None:
        self._under_way -= carried
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
            self._deliver_to_server(sender, int(to[7:]), message)
        else:
            self._deliver_to_script(sender, self.scripts.get(to), message)

    def _deliver_to_server(self, sender: PeerId, shard: int, message: Message) -> None:
        def receive() -> None:
            self._under_way -= 1
            if shard in self.servers:
                self.servers[shard].receive(sender, message, self.now)
            else:
                message.release()

        self._under_way += 1
        self.processors[shard].do(0.0 if self.wires is None else self.wires.network.server_message_s, receive)

    def _deliver_to_script(self, sender: PeerId, script: Script | None, message: Message) -> None:
        if script is None or script.is_closed or script.is_killed:
            message.release()
            return
        script.inbox.append((sender, message))
        if script.waits_for_mail:
            script.resume()

    def _sender(self, address: PeerId) -> Callable[[PeerId, Message], None]:
        return lambda to, message: self.send(address, to, message)

    def _see(self, shard: int, record: Record) -> None:
        if self._imposed is not None:
            self._imposed.see(self.servers[shard], record)
        if self._watch is not None:
            self._watch(shard, record)

    def _deferrer(self, shard: int) -> Callable[[list[Commit]], None] | None:
        if self.apply_s:
            return partial(self._apply_at_random, shard)
        if self.wires is not None and self.wires.network.apply_s_per_byte:
            return partial(self._apply_in_turn, shard)
        return None

    def _apply_at_random(self, shard: int, commits: list[Commit]) -> None:
        self._under_way += 1
        self.at(self.now + self.random.random() * self.apply_s, lambda: self._finish(shard, commits))

    def _apply_in_turn(self, shard: int, commits: list[Commit]) -> None:
        assert self.wires is not None
        self._under_way += 1
        seconds = self.wires.network.apply_s(self.servers[shard].shard, commits)
        self.processors[shard].do_first(seconds, lambda: self._finish(shard, commits))

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
