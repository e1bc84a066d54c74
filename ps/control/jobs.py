"""The agents of a cluster, and the one job that is submitted to it: who runs which worker. For the loop's thread."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ps import __version__
from ps.control import control_pb2 as pb
from ps.control.hello import TEXT_BYTES_MAX, Refusal
from ps.control.hub import FLUSH_S, Hub
from ps.control.lines import Outbox
from ps.wire import WIRE_VERSION

JOB_BYTES_MAX = 64 << 10  # of a script's name and its arguments
ARGS_MAX = 1000

Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """What became of a worker that an agent was given."""

    rank: int
    agent: str  # who it was
    lost: bool = False  # its stream has ended without a word
    refused: str = ""  # why it has not started the script
    code: int = 0  # of the process; below 0: the signal that killed it
    asked: bool = False  # the agent ended it
    cpu_s: float = 0.0
    tail: tuple[str, ...] = ()


class Agent:
    """One agent's stream."""

    def __init__(self) -> None:
        self.hello = pb.AgentHello()
        self.outbox = Outbox()
        self.rank = -1  # of its worker
        self.exited = self.over = False

    @property
    def title(self) -> str:
        return f"{self.hello.host}, pid {self.hello.pid}"

    @property
    def state(self) -> str:
        return "waiting" if self.rank < 0 else "ended" if self.exited else "running"

    def put(self, frame: pb.ToAgent, last: bool = False) -> None:
        if not self.over:
            self.outbox.put(frame.SerializeToString())
        if last and not self.over:
            self.over = True
            self.outbox.end()


class Jobs:
    """takes: this controller hands out submitted jobs; else it has its workers from elsewhere, and refuses."""

    def __init__(self, hub: Hub, takes: bool) -> None:
        self._hub, self._takes = hub, takes
        self.submitted: pb.SubmitRequest | None = None
        self._at = 0.0
        self._open: list[int] | None = None  # ranks that need an agent; None: the job has not begun
        self._agents: list[Agent] = []
        self._followers: list[Outbox] = []
        self._ends: list[WorkerEnd] = []
        self._over = False

    # ---- for the owner of the run -----------------------------------------------------------------------------------

    def look(self) -> list[WorkerEnd]:
        """Begins the job once everybody is there, refuses it when they are not in time. Returns: ends of workers."""
        self._match()
        wait_s = self._hub.config.timeout_s
        if self.submitted is not None and self._open is None and time.monotonic() - self._at > wait_s:
            remedy = "start them (psctl worker --controller ...), then submit again"
            self._give_up(
                Refusal("agents", f"{self._hub.config.workers}", f"{self.missing()} after {wait_s:g} s", remedy)
            )
        ends, self._ends = self._ends, []
        return ends

    def reopen(self, rank: int) -> None:
        """This worker is lost, and waited for: the next free agent takes its place."""
        if self._open is not None and rank not in self._open:
            self._open.append(rank)

    def tell(self, text: str, progress: bool) -> None:
        """A line for those who follow the job."""
        if self._over:
            return
        frame = pb.SubmitReply(progress=text) if progress else pb.SubmitReply(note=text)
        raw = frame.SerializeToString()
        for follower in self._followers:
            if follower.takes(len(raw)):
                follower.put(raw)

    def end(self, end: pb.JobEnd, failed: bool) -> None:
        """The job is over: followers hear how, agents end what is left of it. The second does nothing."""
        if self._over:
            return
        if self.submitted is not None and self._open is None:
            why = end.reason.partition("\n")[0]
            self._give_up(Refusal("job", "a cluster that waits for its agents", f"its end ({why})", "start it again"))
        self._over = True
        for follower in self._followers:
            follower.put(pb.SubmitReply(ended=end).SerializeToString())
            follower.end()
        for agent in list(self._agents):
            agent.put(pb.ToAgent(goodbye=pb.Goodbye(reason=end.reason, failed=failed)), last=True)

    @property
    def is_running(self) -> bool:
        """A submitted job has begun."""
        return self._open is not None

    def status(self) -> dict[str, object]:
        """Part of ControlServer.status."""
        agents = [
            {
                "host": agent.hello.host,
                "pid": agent.hello.pid,
                "directory": agent.hello.directory,
                "rank": agent.rank,
                "state": agent.state,
            }
            for agent in self._agents
        ]
        job = self.submitted
        return {
            "agents": agents,
            "submitted": None
            if job is None
            else {"script": job.script, "args": list(job.args), "by": by(job), "begun": self.is_running},
        }

    def missing(self) -> str:
        """Who a job still needs, in words; empty: nobody."""
        config, there = self._hub.config, [agent for agent in self._agents if agent.rank < 0]
        names = [f"server {shard}" for shard in self._hub.missing()]
        if len(there) < config.workers:
            who = f" ({'; '.join(agent.title for agent in there)})" if there else ""
            absent = ", ".join(f"worker {rank}" for rank in range(len(there), config.workers))
            names.append(f"{len(there)} of {config.workers} agents{who}, none for {absent}")
        elif names:
            names.append("all agents")
        return f"{', '.join(names[:-1])} missing and {names[-1]}" if len(names) > 1 else "".join(names)

    # ---- streams ----------------------------------------------------------------------------------------------------

    async def serve_agent(self, frames: AsyncIterator[bytes], write: Write) -> None:
        """One agent, from its hello to its goodbye."""
        agent = Agent()
        tasks = [
            asyncio.create_task(self._read(agent, frames)),
            asyncio.create_task(_write(agent.outbox, write)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if agent.over:  # its last frame is to be written
                await asyncio.wait(tasks[1:], timeout=FLUSH_S)
        finally:
            self._gone(agent)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def serve_submit(self, raw: bytes, write: Write) -> None:
        """One who submits, until the job's end, its own, or a refusal."""
        follower = Outbox()
        try:
            request = pb.SubmitRequest.FromString(raw)
            refusal = self._check(request)
        except DecodeError:
            refusal = Refusal("job", "a SubmitRequest", "other bytes", f"run release {__version__} everywhere")
        if refusal is not None:
            await write(_refused(refusal))
            return
        self.submitted, self._at = request, time.monotonic()
        self._followers.append(follower)
        accepted = pb.Accepted(job=self._hub.job, waits_for=self.missing())
        follower.put(pb.SubmitReply(accepted=accepted).SerializeToString())
        try:
            await _write(follower, write)
        finally:
            if follower in self._followers:
                self._followers.remove(follower)

    async def _read(self, agent: Agent, frames: AsyncIterator[bytes]) -> None:
        try:
            async with asyncio.timeout(self._hub.hello_s):
                first = await anext(aiter(frames))
        except (TimeoutError, StopAsyncIteration):
            first = b""
        refusal = self._greet(agent, first)
        if refusal is not None:
            self._hub.refused += 1
            agent.put(pb.ToAgent(refusal=_packed(refusal)), last=True)
        async for raw in frames:  # of who is refused too: a stream that is dropped in mid-air outlives the loop
            self._hear(agent, raw)

    def _greet(self, agent: Agent, raw: bytes) -> Refusal | None:
        try:
            frame = pb.FromAgent.FromString(raw)
        except DecodeError:
            frame = pb.FromAgent()
        hello, remedy = frame.hello, f"run release {__version__} everywhere"
        if not frame.HasField("hello"):
            return Refusal("hello", "an AgentHello as the first frame", "something else", remedy)
        if any(len(text.encode()) > TEXT_BYTES_MAX for text in (hello.host, hello.directory, hello.release)):
            return Refusal("hello", f"texts of at most {TEXT_BYTES_MAX} bytes", "longer ones", "shorten them")
        if not hello.wire_version_min <= WIRE_VERSION <= hello.wire_version_max:
            return Refusal("wire version", f"a range with {WIRE_VERSION}", f"that of {hello.release[:40]!r}", remedy)
        if hello.job not in (b"", self._hub.job):
            remedy = "the agent belongs to another job: give it this controller's PS_JOB, or none"
            return Refusal("job", self._hub.job.hex(), hello.job[:16].hex(), remedy)
        if not self._takes:
            return Refusal("agents", "none: `psctl run` starts its workers", "one", "agents belong to psctl controller")
        agent.hello = hello
        if self._over or self._hub.core.stopped is not None:
            reason = "" if self._hub.core.stopped is None else self._hub.core.stopped.reason
            agent.put(pb.ToAgent(goodbye=pb.Goodbye(reason=reason)), last=True)
            return None
        self._agents.append(agent)
        agent.put(pb.ToAgent(admitted=pb.Admitted(job=self._hub.job)))
        self._match()
        return None

    def _hear(self, agent: Agent, raw: bytes) -> None:
        try:
            frame = pb.FromAgent.FromString(raw)
        except DecodeError:
            frame = pb.FromAgent()
        if agent.over:  # what was under way is nobody's mistake
            return
        if not frame.HasField("exited") or agent.rank < 0 or agent.exited:
            self._hub.rejected += 1
            return
        agent.exited, end = True, frame.exited
        found = WorkerEnd(
            agent.rank, agent.title, False, end.refused, end.code, end.asked, end.cpu_s, tuple(end.tail)
        )  # fmt: skip
        self._ends.append(found)

    def _gone(self, agent: Agent) -> None:
        if agent in self._agents:
            self._agents.remove(agent)
            if agent.rank >= 0 and not agent.exited:
                self._ends.append(WorkerEnd(agent.rank, agent.title, lost=True))
        agent.over = True

    # ---- the job ----------------------------------------------------------------------------------------------------

    def _check(self, request: pb.SubmitRequest) -> Refusal | None:
        """Why this job is not taken; None: it is."""
        nbytes = len(request.script.encode()) + sum(len(arg.encode()) for arg in request.args)
        if nbytes > JOB_BYTES_MAX or len(request.args) > ARGS_MAX:
            got = f"{len(request.args)} arguments, {nbytes} bytes"
            return Refusal("ARGS", f"at most {ARGS_MAX} arguments and {JOB_BYTES_MAX} bytes", got, "put it in a file")
        if not request.script or any("\0" in text for text in (request.script, *request.args)):
            return Refusal("SCRIPT", "a file's name and arguments without NUL", repr(request.script[:80]), "name one")
        if len(request.host.encode()) > TEXT_BYTES_MAX:
            return Refusal("host", f"at most {TEXT_BYTES_MAX} bytes", "more", "shorten it")
        if not self._takes:
            return Refusal(
                "job", "a cluster of psctl controller", "one of psctl run, which has its job", "start another"
            )
        if self.submitted is not None:
            first = self.submitted
            got = f"one that has {words(first)!r}, submitted {time.monotonic() - self._at:.0f} s ago by {by(first)}"
            return Refusal("job", "a cluster without a job", got, "wait for its end, or end it: psctl stop")
        if self._hub.core.stopped is not None:
            got = f"one whose job is over ({self._hub.core.stopped.reason.partition(chr(10))[0]})"
            return Refusal("job", "a cluster that waits for one", got, "start another controller")
        by_hand = [rank for rank, member in self._hub.core.members.items() if member.state != "expected"]
        if by_hand:
            got = f"one whose worker {by_hand[0]} was started with a script of its own (psctl worker SCRIPT)"
            return Refusal("job", "a cluster without a job", got, "wait for its end, or end it: psctl stop")
        return None

    def _match(self) -> None:
        """Gives open ranks to agents that wait."""
        if self.submitted is None or self._over or self._hub.core.stopped is not None:
            return
        if self._open is None:
            if self.missing():
                return
            self._open = list(range(self._hub.config.workers))
        idle = [agent for agent in self._agents if agent.rank < 0]
        chosen = list(zip(idle, self._open, strict=False))
        del self._open[: len(chosen)]
        for agent, rank in chosen:
            agent.rank = rank
        hosts = Counter(agent.hello.host for agent in self._agents if agent.state == "running")
        for agent, rank in chosen:
            before = [one for one in self._agents if one.hello.host == agent.hello.host and -1 < one.rank < rank]
            start = pb.Start(
                script=self.submitted.script,
                args=self.submitted.args,
                rank=rank,
                size=self._hub.config.workers,
                local_rank=len(before),
                local_size=max(hosts[agent.hello.host], len(before) + 1),
            )
            agent.put(pb.ToAgent(start=start))

    def _give_up(self, refusal: Refusal) -> None:
        """The job never began, and another may be submitted."""
        self.submitted, followers = None, self._followers
        self._followers = []
        for follower in followers:
            follower.put(_refused(refusal))
            follower.end()


def words(job: pb.SubmitRequest) -> str:
    """As one types it."""
    text = shlex.join([job.script, *job.args])
    return text if len(text) <= 200 else f"{text[:200]} ..."


def by(job: pb.SubmitRequest) -> str:
    """Who has submitted it."""
    return f"{job.host}, pid {job.pid}"


def _packed(refusal: Refusal) -> pb.Refusal:
    return pb.Refusal(field=refusal.field, expected=refusal.expected, got=refusal.got, remedy=refusal.remedy)


def _refused(refusal: Refusal) -> bytes:
    return pb.SubmitReply(refusal=_packed(refusal)).SerializeToString()  # type: ignore[no-any-return]


async def _write(outbox: Outbox, write: Write) -> None:
    while (frame := await outbox.take()) is not None:
        await write(frame)
