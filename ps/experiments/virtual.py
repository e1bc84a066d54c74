"""A cell in virtual time: every worker runs the script in this process, where `ps.connect()` is that worker's client.

Stop rules, figures and `run.jsonl` are those of `psctl run`, on the simulator's clock. One worker computes at a time,
so what belongs to a process (global random state, the current folder) is shared by the scripts of all workers.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ps.control.logs import Logged, Logs
from ps.experiments.cells import Cell
from ps.experiments.files import Fault, Links
from ps.experiments.points import FIGURES_S
from ps.launch.ends import missed
from ps.launch.figures import Figures
from ps.launch.journal import Journal
from ps.launch.options import rules_of
from ps.launch.rules import Rule, progress
from ps.launch.sinks import Started, sinks_of
from ps.launch.view import Plain
from ps.launch.watch import TICK_S, Watch
from ps.local import HERE
from ps.messages import Log
from ps.report import status
from ps.server.values import checksum
from ps.sim.loop import Simulator
from ps.sim.network import Host, Network
from ps.types import PeerId, server_peer, worker_peer
from ps.worker.client import Client

RESTART_S = 1.0  # from a worker's death until its script runs again


def run_virtual(cell: Cell, folder: Path) -> dict[str, Any]:
    """Runs the cell, writes `run.jsonl` into the folder. Returns: the outcome, as `outcome.json` has it."""
    sys.argv = [cell.script, *cell.args]
    sys.path.insert(0, str(Path(cell.script).parent))
    journal = Journal(sinks_of("jsonl"), lambda text: print(text, file=sys.stderr))
    config = cell.config.model_dump(mode="json")
    journal.start(Started(cell.id, folder, cell.script, tuple(cell.args), config, time.time()))
    return VirtualRun(cell, journal, rules_of(cell.stop_after, cell.stop_when, cell.patience)).execute()


@dataclass
class VirtualRun:
    """One run; it is also the control that its watch looks at."""

    cell: Cell
    journal: Journal
    rules: list[Rule]
    clients: dict[int, Client] = field(default_factory=dict)  # the last of each rank
    restarts: dict[int, int] = field(default_factory=dict)
    coming_back: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.simulator = Simulator(self.cell.config, seed=self.cell.seed, network=network_of(self.cell))
        self.simulator.controller.on_log = self._on_log
        self.logs = Logs()
        self.faults = list(self.cell.faults)
        figures = Figures(FIGURES_S)
        self.watch = Watch(self, self.rules, Plain(True), self.journal, figures, now=lambda: self.simulator.now)

    def execute(self) -> dict[str, Any]:
        """From the first event to the last; the outcome."""
        for rank in range(self.cell.config.workers):
            self.start(rank)
        self.simulator.at(TICK_S, self.look)
        self.simulator.run(lambda: self.simulator.is_quiet and not self.coming_back)
        outcome = self.watch.look()
        reason, failed = outcome if outcome is not None else ("the workers have ended", False)
        if self.faults:
            left = [fault.words for fault in self.faults]
            reason, failed = missed(len(self.cell.faults), left, self.watch.clocks, reason), True
        self.watch.end(reason=reason, exit_code=int(failed), restarts=self.restarts, processes={})
        if failed:
            print(reason, file=sys.stderr)
        names = [worker_peer(rank) for rank in sorted(self.clients)] + [*map(server_peer, self.simulator.servers)]
        return {
            "exit_code": int(failed),
            "reason": reason,
            "seconds": self.simulator.now,
            "began": self.simulator.controller.core.began_at,
            "clocks": self.watch.clocks,
            "restarts": self.restarts,
            "checksum": f"{checksum(self.simulator.contents()):08x}",
            "peers": {name: self.measured(name) for name in names},
            "processes": {},
        }

    def start(self, rank: int) -> None:
        """A worker, now."""
        self.coming_back.discard(rank)
        self.simulator.run_worker(rank, self.train)

    def train(self, client: Client) -> None:
        """What one worker does."""
        self.clients[client.rank] = client
        token = HERE.set(client)
        try:
            runpy.run_path(self.cell.script, run_name="__main__")
        except SystemExit as ended:
            if ended.code not in (None, 0):
                raise
        finally:
            HERE.reset(token)

    # ---- what a watch looks at --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """As `ControlServer.status`, as far as a watch needs it."""
        core = self.simulator.controller.core
        failed = core.stopped is not None and core.stopped.failed
        return {
            **status(core, self.simulator.servers),
            "failed": failed,
            "began_at": core.began_at,
            "metrics": Measured(self.measured),
        }

    def take_logs(self) -> list[Logged]:
        """All that came since the last call."""
        return self.logs.take()

    def stop(self, reason: str, failed: bool = False) -> None:
        """Ends the job."""
        self.simulator.stop(reason, failed)

    def measured(self, peer: str) -> dict[str, Any]:
        """The snapshot of a worker or server. Raises: KeyError when there is none."""
        kind, number = _parts(peer)
        peers: Mapping[int, Any] = self.simulator.servers if kind == "server" else self.clients
        found: dict[str, Any] = peers[number].metrics.snapshot().to_dict()
        return found

    def _on_log(self, log: Log, now: float) -> None:
        self.logs.put(
            Logged(now - log.ago, int(log.worker), int(log.clock), dict(zip(log.names, log.values, strict=True)))
        )

    # ---- as time goes by --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Every TICK_S: logs, rules, faults."""
        outcome = self.watch.look()
        clocks = progress(self.watch.status, 0.0).clocks
        for fault in [fault for fault in self.faults if outcome is None and clocks and min(clocks) >= fault.clock]:
            self.faults.remove(fault)
            self.do(fault)
        self.simulator.at(self.simulator.now + TICK_S, self.look)

    def do(self, fault: Fault) -> None:
        """Kills a worker, which comes back if it may, or a server; or cuts either off for a while."""
        simulator, kind, number = self.simulator, *_parts(fault.kill or fault.cut or "")
        if fault.cut is not None:
            peer = PeerId(fault.cut)
            simulator.links.cut(peer)
            simulator.at(simulator.now + (fault.seconds or 0.0), lambda: simulator.links.mend(peer))
        elif kind == "server":
            simulator.kill_server(number)
        elif not (script := simulator.scripts[worker_peer(number)]).is_over and not script.is_killed:
            simulator.kill_worker(number)
            if self.restarts.get(number, 0) < self.cell.max_restarts:
                self.restarts[number] = self.restarts.get(number, 0) + 1
                self.coming_back.add(number)
                simulator.at(simulator.now + RESTART_S, lambda: self.start(number))


def network_of(cell: Cell) -> Network | None:
    """The cell's links in the simulator; None where it has none: every message then takes 1 to 2 ms."""
    if cell.links == Links():
        return None
    hosts = {}
    for name in sorted(set(cell.hosts.values())):
        link = cell.links.of(name)
        hosts[name] = Host(link.bytes_per_s, link.delay_s)
    return Network(hosts=hosts, place=cell.hosts)


@dataclass(frozen=True)
class Measured:
    """What peers have measured, by name, made only for who asks."""

    of: Callable[[str], dict[str, Any]]

    def get(self, peer: str, default: Any = None) -> Any:
        """As of a dict."""
        try:
            return self.of(peer)
        except KeyError:
            return default


def _parts(peer: str) -> tuple[str, int]:
    kind, _, number = peer.partition(":")
    return kind, int(number)
