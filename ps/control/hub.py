"""The controller core among its peers' streams: who joins, what goes where, when it is over. In the loop's thread."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from ps import __version__, wire
from ps.config import RunConfig
from ps.control.frames import (
    METRICS_BYTES_MAX,
    Body,
    FromController,
    Leaving,
    MetricsJson,
    from_controller,
    read_to_controller,
)
from ps.control.hello import Goodbye, Hello, Refusal, Welcome, check, seat
from ps.control.lines import Line, misplaced
from ps.control.logs import Logged, Logs
from ps.control.rooms import Rooms
from ps.controller.actions import Send
from ps.controller.build import build_controller
from ps.controller.core import Controller
from ps.errors import FrameError
from ps.messages import Enroll, Enrolled, Log, Register, Rejected, Stop
from ps.types import CONTROLLER, PeerId, server_peer, worker_peer

LEAVE_S = 2.0  # after a failure the others have so long for their last words
FLUSH_S = 2.0  # a peer has so long to take its last frame
TIMER_S_MAX = 3600.0


class Hub:
    """Brings frames to the core and its answers to the streams.

    on_over: called when the job is over and every stream has ended; again after streams of who comes later still.
    hold: at an end that is no failure servers and readers stay until `release`, so that the values can be saved.
    """

    def __init__(
        self, config: RunConfig, job: bytes, hello_s: float, on_over: Callable[[], None], hold: bool = False
    ) -> None:
        self.config, self.job, self.hello_s, self._on_over = config, job, hello_s, on_over
        self.core: Controller = build_controller(config)
        self.outcome: tuple[str, bool] | None = None  # reason, failed; once the job is over
        self.rejected = 0  # frames that were none, or not the sender's to say
        self.refused = 0  # peers that could not join
        self.logs = Logs()
        self._rooms = Rooms(config)
        self._hold = hold
        self._made = 0
        self._readers = 0
        self._lines: set[Line] = set()
        # What servers are to hear that have not come yet: a worker may be lost before they are up.
        self._early: dict[PeerId, list[Body]] = {server_peer(shard): [] for shard in range(config.servers)}
        self._routes: dict[PeerId, Line] = {}  # of lines, workers, servers and readers that are there
        self._addresses: dict[int, str] = {}  # shard -> where its data plane listens, kept after its end
        self._metrics: dict[str, Any] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._grace: asyncio.TimerHandle | None = None

    # ---- streams ----------------------------------------------------------------------------------------------------

    def open(self) -> Line:
        """A stream has begun; it has `hello_s` to say who it is."""
        self._made += 1
        line = Line(self._made)
        self._lines.add(line)
        self._routes[line.name] = line
        line.set_late(self._later(self.hello_s, self._late, line))
        return line

    def receive(self, line: Line, raw: bytes) -> None:
        """One frame of a peer; what does not hold is counted and passed over."""
        try:
            frame = read_to_controller(raw)
        except FrameError as error:
            if line.state == "new":
                self._refuse(
                    line, Refusal("hello", "a Hello of this release", str(error), "run one release everywhere")
                )
            else:
                self.rejected += 1
            return
        match frame:
            case Hello() if line.state == "new":
                self._greet(line, frame)
            case Body(encoded) if line.state == "joined":
                self._hear(line, encoded)
            case MetricsJson(text) if line.state == "joined":
                self._note(line, text)
            case Leaving(why) if line.state == "joined":
                line.why = why
                if line.shard >= 0:  # told of it, everybody leaves while it still answers
                    self.server_lost(line.shard, why)
            case _ if line.state == "new":
                got = type(frame).__name__
                self._refuse(line, Refusal("hello", "a Hello as the first frame", got, "say first who you are"))
            case _ if line.state != "over":  # what was under way when it ended is nobody's mistake
                self.rejected += 1

    def closed(self, line: Line) -> None:
        """A stream has ended, whoever ended it."""
        line.set_late(None)
        self._lines.discard(line)
        gone = [peer for peer, routed in self._routes.items() if routed is line]
        for peer in gone:
            del self._routes[peer]
        line.state = "over"
        if self.outcome is None:
            if line.shard >= 0:
                self.server_lost(line.shard, line.why)
            elif line.rank >= 0 and worker_peer(line.rank) in gone:  # else a later stream has taken its place
                self.worker_lost(line.rank, line.why)
            elif line.name in self.core.readers:
                self.core.readers.remove(line.name)
        if self.outcome is not None and not self._lines:
            self._on_over()

    # ---- what the owner of the run says -----------------------------------------------------------------------------

    def stop(self, reason: str, failed: bool) -> None:
        """Ends the job; the second does nothing."""
        self._decide(lambda now: self.core.handle(CONTROLLER, Stop(reason, failed), now))

    def worker_lost(self, rank: int, why: str) -> None:
        """This worker is gone. Nothing happens when it has finished."""
        self._decide(lambda now: self.core.worker_lost(rank, why, now))

    def server_lost(self, shard: int, why: str) -> None:
        """This server is gone, and the job with it."""
        if self._is_held:  # the core has ended already, but not in order after all
            self.core.stopped = Stop(f"server {shard} was lost ({why}) before its values were let go", True)
        elif self.outcome is None and self.core.stopped is not None:
            self._hurry()  # workers that finish their clock would wait for it
        self._decide(lambda now: self.core.server_lost(shard, why, now))

    def release(self) -> None:
        """Nobody needs the values any more: servers and readers leave at the end, or now if it has been."""
        self._hold = False
        self._decide(lambda now: [])

    def finish(self) -> None:
        """Says goodbye to all; what they say from now on is not heard."""
        if self.outcome is not None:
            return
        assert self.core.stopped is not None
        self.outcome = (self.core.stopped.reason, self.core.stopped.failed)
        for timer in (self._timer, self._grace):
            if timer is not None:
                timer.cancel()
        for line in list(self._lines):
            if line.state != "over":
                self._end(line, Goodbye(*self.outcome))
        if not self._lines:
            self._on_over()

    def status(self) -> dict[str, Any]:
        """See ControlServer.status."""
        now, core = time.monotonic(), self.core
        workers = [
            {
                "rank": rank,
                "state": member.state,
                "clock": member.clock,
                "logged": dict(member.logged),
                "silent_s": now - member.heard if member.incarnation else -1.0,
            }
            for rank, member in sorted(core.members.items())
        ]
        servers = [
            {"shard": shard, "address": self._addresses.get(shard, ""), "state": self._server_state(shard)}
            for shard in range(self.config.servers)
        ]
        return {
            "workers": workers,
            "servers": servers,
            "stopped": None if core.stopped is None else core.stopped.reason,
            "failed": core.stopped is not None and core.stopped.failed,
            "skipped_examples": dict(core.skipped),
            "began_at": core.began_at,
            "metrics": dict(self._metrics),
            "memory": self._rooms.status(),
            "refused": self.refused,
            "rejected": self.rejected,
            "dropped_logs": self.logs.dropped,
            "release": __version__,
            "wire_version": wire.WIRE_VERSION,
            "unix_time": time.time(),
        }

    # ---- joining ----------------------------------------------------------------------------------------------------

    def _greet(self, line: Line, hello: Hello) -> None:
        line.hello = hello
        if (refusal := check(hello, self.job)) is not None:
            self._refuse(line, refusal)
        elif self.core.stopped is not None and (
            self.outcome is not None or self.core.stopped.failed or (self._is_held and hello.role == "worker")
        ):
            self._end(line, Goodbye(self.core.stopped.reason, self.core.stopped.failed))
        elif hello.role == "server":
            self._greet_server(line, hello)
        else:
            line.state = "waiting"
            line.set_late(self._later(self.hello_s, self._late, line))
            self._welcome_waiting()

    def _greet_server(self, line: Line, hello: Hello) -> None:
        shard = seat(hello, self._servers(), self.config.servers)
        if isinstance(shard, Refusal):
            self._refuse(line, shard)
        else:
            line.shard = shard
            self._addresses[line.shard] = hello.data_address
            self._routes[server_peer(line.shard)] = line
            self._welcome(line)
            for frame in self._early.pop(server_peer(line.shard), ()):
                self._put(line, frame)
            self._welcome_waiting()

    def _welcome_waiting(self) -> None:
        if not self.missing():
            waiting = [line for line in self._lines if line.state == "waiting"]
            for line in waiting:
                self._welcome(line)

    def _welcome(self, line: Line) -> None:
        line.set_late(None)
        line.state = "joined"
        if line.role == "reader":
            self._routes[PeerId(f"reader:{self._readers}")] = line
            del self._routes[line.name]
            line.name = PeerId(f"reader:{self._readers}")
            self._readers += 1
        self._put(line, Welcome(self.job, self.config, line.shard, self._servers()))

    def _late(self, line: Line) -> None:
        """Its deadline has come before its Hello, or before all servers."""
        if line.state == "waiting":
            missing = self.missing()
            wanted, there = self.config.servers, self.config.servers - len(missing)
            got = f"{there} after {self.hello_s:g} s, {len(missing)} missing"
            remedy = "start the missing servers, then this again"
            self._refuse(line, Refusal("servers", f"{wanted} servers", got, remedy))
        elif line.state == "new":
            expected, got = f"a Hello within {self.hello_s:g} s", "nothing"
            self._refuse(line, Refusal("hello", expected, got, "say first who you are"))

    def _servers(self) -> dict[int, str]:
        """The addresses of those that are there, by shard."""
        return {shard: at for shard, at in self._addresses.items() if server_peer(shard) in self._routes}

    def missing(self) -> list[int]:
        """Shards whose servers are not there."""
        return [shard for shard in range(self.config.servers) if server_peer(shard) not in self._routes]

    def _refuse(self, line: Line, refusal: Refusal) -> None:
        self.refused += 1
        self._end(line, refusal)

    # ---- messages ---------------------------------------------------------------------------------------------------

    def _hear(self, line: Line, encoded: bytes) -> None:
        try:
            bodies = wire.decode(encoded, self.job)
        except FrameError:
            self.rejected += 1
            return
        for body in bodies:
            self._take(line, body)

    def _take(self, line: Line, body: Any) -> None:
        if (why := misplaced(line, body)) is not None:
            self.rejected += 1
            self._perform([Send(line.name, Rejected(0, why, fenced=False))])
        elif isinstance(body, Enroll):
            self._decide(lambda now: self._bind(line, body, self.core.handle(line.name, body, now)))
        else:
            if isinstance(body, Log) and body.incarnation == self.core.members[line.rank].incarnation:
                values = dict(zip(body.names, body.values, strict=False))
                self.logs.put(Logged(time.monotonic() - max(body.ago, 0.0), line.rank, int(body.clock), values))
            self._decide(lambda now: self.core.handle(line.name, body, now))
            if isinstance(body, Register):
                self._decide(self._look_at_memory)

    def _look_at_memory(self, now: float) -> list[Send]:
        why = self._rooms.look(self.core, self._lines)
        return self.core.handle(CONTROLLER, Stop(why, True), now) if why else []

    def _bind(self, line: Line, enroll: Enroll, sends: list[Send]) -> list[Send]:
        """The stream that asked becomes that of the rank it got; an older one of that rank keeps its own name only."""
        for send in sends:
            match send.body:
                case Enrolled(worker, _, nonce) if worker >= 0 and nonce == enroll.nonce:
                    line.rank = int(worker)
                    self._routes[worker_peer(line.rank)] = line
        return sends

    def _note(self, line: Line, text: str) -> None:
        try:
            if len(text.encode()) > METRICS_BYTES_MAX:
                raise ValueError
            self._metrics[line.title] = json.loads(text)
        except (ValueError, RecursionError):
            self.rejected += 1

    def _decide(self, ask: Callable[[float], list[Send]]) -> None:
        """Asks the core and performs its answer; then looks at the timers and whether the job is over."""
        if self.outcome is not None:
            return
        try:
            self._perform(ask(time.monotonic()))
        except Exception:  # a bug of ours must not become a hang of the user's
            self.core.stopped = self.core.stopped or Stop(f"the controller failed:\n{traceback.format_exc()}", True)
            self._hurry()
        if self._timer is not None:
            self._timer.cancel()
        wait = float("inf") if self._is_held else self.core.next_timer() - time.monotonic()
        self._timer = None if wait == float("inf") else self._later(max(wait, 0.001), self._on_timer)
        if self.core.stopped is not None:
            if self._is_held:
                self._dismiss_workers()
            elif not self._anybody_runs:
                self.finish()
            elif self.core.stopped.failed:
                self._hurry()

    @property
    def _anybody_runs(self) -> bool:
        return any(member.state == "running" for member in self.core.members.values())

    @property
    def _is_held(self) -> bool:
        """Training has ended well, and servers and readers are still to stay."""
        stopped = self.core.stopped
        ended = self.outcome is None and stopped is not None and not stopped.failed
        return ended and self._hold and not self._anybody_runs

    def _dismiss_workers(self) -> None:
        assert self.core.stopped is not None
        for line in list(self._lines):
            if line.role == "worker" and line.state != "over":
                self._end(line, Goodbye(self.core.stopped.reason, self.core.stopped.failed))

    def _on_timer(self) -> None:
        self._decide(self.core.on_timer)

    def _hurry(self) -> None:
        if self._grace is None:
            self._grace = self._later(LEAVE_S, self.finish)

    def _perform(self, sends: Iterable[Send]) -> None:
        for send in sends:
            line, frame = self._routes.get(send.to), Body(wire.encode(self.job, send.body))
            if line is not None:
                self._put(line, frame)
            elif send.to in self._early:  # else it is gone, and the core will hear of it or has
                self._early[send.to].append(frame)

    def _put(self, line: Line, frame: FromController) -> None:
        if line.state == "over":
            return
        raw = from_controller(frame)
        if line.outbox.takes(len(raw)):
            line.outbox.put(raw)
        else:
            line.why = "it does not take what it is sent"
            line.cut.set()  # the control plane drops no message, so it drops the peer that takes none

    def _end(self, line: Line, frame: Refusal | Goodbye) -> None:
        self._put(line, frame)
        line.state = "over"
        line.outbox.end()
        line.set_late(self._later(FLUSH_S, line.cut.set))

    def _server_state(self, shard: int) -> str:
        if shard not in self._addresses:
            return "expected"
        if self.outcome is not None:
            return "done"
        return "running" if server_peer(shard) in self._routes else "lost"

    def _later(self, seconds: float, what: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(min(seconds, TIMER_S_MAX), what, *args)
