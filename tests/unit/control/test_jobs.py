"""Agents and submitted jobs at the controller: who is taken, who is refused and how, without any script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from ps import wire
from ps.config import RunConfig
from ps.control import control_pb2 as pb
from ps.control.agents import AgentLink, submit
from ps.control.hello import Hello, LinkEnd
from ps.control.jobs import ARGS_MAX, JOB_BYTES_MAX
from ps.control.link import ControlLink
from ps.control.rpc import SERVICE, grpc
from ps.control.service import ControlServer
from ps.errors import ConfigError, DeadlineError, StoppedError
from ps.messages import Enroll
from ps.types import WorkerId

WAIT_S = 20.0  # a deadline: everything here answers at once


class Job:
    """A controller that takes jobs; one server and agents that the test plays."""

    def __init__(self, workers: int = 1, takes: bool = True, **options: Any) -> None:
        self.control = ControlServer(RunConfig(workers=workers, **options), takes_jobs=takes)
        self.address = self.control.start()
        self.links: list[ControlLink | AgentLink] = []

    def server(self) -> ControlLink:
        hello = Hello("server", data_address="tcp://127.0.0.1:9")
        self.links.append(link := ControlLink(self.address, hello, lambda raw: None, self.ended, WAIT_S))
        return link

    def ended(self, end: LinkEnd) -> None: ...

    def agent(self, job: bytes = b"") -> AgentLink:
        self.links.append(link := AgentLink(self.address, job, "/scripts", WAIT_S))
        return link

    def submit(self, *argv: str) -> Iterator[pb.SubmitReply]:
        return submit(self.address, argv[0], list(argv[1:]))

    def close(self) -> None:
        self.control.close()
        for link in self.links:
            link.close()


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    made: list[Job] = []
    yield made
    for job in made:
        job.close()


def frame(link: AgentLink, kind: str) -> Any:
    """The next frame, which must be of this kind."""
    found = link.take(WAIT_S)
    assert found is not None and found.HasField(kind), (found, link.gone)
    return getattr(found, kind)


def test_a_job_begins_once_everybody_is_there_and_ends_for_everybody(jobs: list[Job]) -> None:
    jobs.append(job := Job(workers=2))
    first = job.agent()
    replies = job.submit("train.py", "--x", "1")
    accepted = next(replies).accepted
    assert accepted.job == job.control.job and accepted.waits_for.startswith("server 0 missing and 1 of 2 agents (")
    job.server()
    second = job.agent(job.control.job)
    assert job.control.look_at_job() == []
    for rank, link in enumerate((first, second)):
        start = frame(link, "start")
        assert (start.script, list(start.args), start.rank, start.size) == ("train.py", ["--x", "1"], rank, 2)
        assert (start.local_rank, start.local_size) == (rank, 2)
    status = job.control.status()
    assert [(agent["rank"], agent["state"]) for agent in status["agents"]] == [(0, "running"), (1, "running")]
    assert status["submitted"]["script"] == "train.py" and status["submitted"]["begun"]
    second.exited(pb.Exited(code=3, tail=["boom"], cpu_s=0.5))
    while not (exits := job.control.look_at_job()):
        pass
    assert (exits[0].rank, exits[0].code, exits[0].tail, exits[0].lost) == (1, 3, ("boom",), False)
    job.control.tell_followers("12 s, clock 3", progress=True)
    assert next(replies).progress == "12 s, clock 3"
    job.control.stop("boom", failed=True)
    job.control.end_job("boom", True, 3, 1.5, ["boom"])
    end = next(replies).ended
    assert (end.reason, end.exit_code, end.seconds, list(end.last_words)) == ("boom", 3, 1.5, ["boom"])
    assert [frame(link, "goodbye").reason for link in (first, second)] == ["boom"] * 2


def test_an_agent_that_is_gone_is_lost_and_another_may_take_its_place(jobs: list[Job]) -> None:
    jobs.append(job := Job())
    job.server()
    agent, spare = job.agent(), job.agent()
    next(job.submit("train.py"))
    job.control.look_at_job()
    frame(agent, "start")
    agent.close()
    while not (ends := job.control.look_at_job()):
        pass
    assert (ends[0].rank, ends[0].lost) == (0, True)
    job.control.reopen(0)
    job.control.look_at_job()
    assert frame(spare, "start").rank == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("",), "SCRIPT: expected a file's name and arguments without NUL, got ''"),
        (("a.py", "a\0b"), "SCRIPT: expected a file's name and arguments without NUL"),
        (("a.py", *["x"] * (ARGS_MAX + 1)), f"ARGS: expected at most {ARGS_MAX} arguments and {JOB_BYTES_MAX} bytes"),
        (("a.py", "x" * JOB_BYTES_MAX), f"ARGS: expected at most {ARGS_MAX} arguments and {JOB_BYTES_MAX} bytes"),
    ],
)
def test_jobs_that_are_none(jobs: list[Job], argv: tuple[str, ...], words: str) -> None:
    jobs.append(job := Job())
    with pytest.raises(ConfigError, match=re.escape(words)):
        next(job.submit(*argv))
    assert job.control.status()["submitted"] is None


def test_who_cannot_have_a_job_says_why(jobs: list[Job]) -> None:
    jobs.append(run := Job(takes=False))
    with pytest.raises(ConfigError, match="job: expected a cluster of psctl controller, got one of psctl run"):
        next(run.submit("a.py"))
    with pytest.raises(ConfigError, match="agents: expected none: `psctl run` starts its workers, got one"):
        run.agent()
    jobs.append(by_hand := Job())
    by_hand.server()
    worker = ControlLink(by_hand.address, Hello("worker"), lambda raw: None, by_hand.ended, WAIT_S)
    by_hand.links.append(worker)
    worker.send(wire.encode(by_hand.control.job, Enroll(WorkerId(-1), False, 1)))
    while by_hand.control.status()["workers"][0]["state"] == "expected":
        pass
    with pytest.raises(ConfigError, match="job: expected a cluster without a job, got one whose worker 0 was started"):
        next(by_hand.submit("a.py"))


def test_who_comes_too_late(jobs: list[Job]) -> None:
    jobs.append(job := Job(timeout_s=0.05))
    replies = job.submit("a.py")
    next(replies)
    while job.control.status()["submitted"] is not None:
        job.control.look_at_job()
    with pytest.raises(ConfigError, match=r"agents: expected 1, got server 0 missing and 0 of 1 agents, none for work"):
        next(replies)
    job.control.stop("enough")
    job.control.end_job("enough", False, 0, 1.0, [])
    with pytest.raises(ConfigError, match=r"job: expected a cluster that waits for one, got one whose job is over"):
        next(job.submit("a.py"))
    with pytest.raises(StoppedError, match=f"the job of the controller at {job.address} is over: enough"):
        job.agent()


def test_an_agent_of_another_job_and_one_without_a_controller(jobs: list[Job]) -> None:
    jobs.append(job := Job())
    with pytest.raises(ConfigError, match="the agent belongs to another job"):
        job.agent(b"x" * 16)
    with pytest.raises(DeadlineError, match=r"no controller answers at 127.0.0.1:1 in 0.1 s"):
        AgentLink("127.0.0.1:1", b"", "/", 0.1)
    with pytest.raises(DeadlineError, match=r"no controller answers at 127.0.0.1:1; start it"):
        next(submit("127.0.0.1:1", "a.py", []))


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff\xff"],
        [b""],
        [pb.FromAgent(exited=pb.Exited(code=1)).SerializeToString()],
        [pb.FromAgent(hello=pb.AgentHello(host="x" * 5000)).SerializeToString()],
        [pb.FromAgent(hello=pb.AgentHello(wire_version_min=900, wire_version_max=901)).SerializeToString()],
        [pb.FromAgent(hello=pb.AgentHello()).SerializeToString()],
    ],
)
def test_strangers_are_refused_and_counted(jobs: list[Job], frames: list[bytes]) -> None:
    jobs.append(job := Job())
    with grpc.insecure_channel(job.address) as channel:
        call = channel.stream_stream(f"/{SERVICE}/Agent")(iter(frames), timeout=WAIT_S)
        (reply,) = [pb.ToAgent.FromString(raw) for raw in call]
    assert reply.HasField("refusal") and reply.refusal.remedy
    assert job.control.status()["refused"] == 1 and job.control.status()["agents"] == []


def test_what_an_agent_may_not_say_is_counted(jobs: list[Job]) -> None:
    """An exit without a worker, and a second one."""
    jobs.append(job := Job())
    job.server()
    agent = job.agent()
    agent.exited(pb.Exited(code=1))
    while job.control.status()["rejected"] < 1:
        pass
    next(job.submit("a.py"))
    job.control.look_at_job()
    frame(agent, "start")
    agent.exited(pb.Exited(code=1))
    agent.exited(pb.Exited(code=0))
    while job.control.status()["rejected"] < 2:
        pass
    assert [end.code for end in job.control.look_at_job()] == [1]


def test_a_server_that_says_it_is_leaving_ends_the_job_with_its_words(jobs: list[Job]) -> None:
    jobs.append(job := Job())
    job.server().leaving("it was asked to stop by SIGTERM")
    assert job.control.wait(WAIT_S)
    lost = "server 0 was lost (it was asked to stop by SIGTERM) before it held any values; start the run again"
    assert job.control.outcome == (lost, True)
