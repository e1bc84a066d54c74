"""A real controller on loopback; the test plays servers, workers and readers message by message."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ps import wire
from ps.config import RunConfig
from ps.control import control_pb2 as pb
from ps.control import hub as hubs
from ps.control.frames import Body, FromController, read_from_controller, to_controller
from ps.control.hello import Goodbye, Hello, Refusal, Welcome
from ps.control.rpc import SERVICE, grpc
from ps.control.service import ControlServer
from ps.errors import ConfigError
from ps.messages import (
    Barrier,
    BarrierOpen,
    BatchReady,
    Done,
    Enroll,
    Enrolled,
    Log,
    Lost,
    Placed,
    Progress,
    Register,
    Registered,
    Rejected,
    Stop,
    Waiting,
)
from ps.types import Clock, WorkerId
from tests.unit.control.peers import SPEC, WAIT_S, Cluster, Peer, done, place

CHECKOUT = Path(__file__).resolve().parents[3]


def answer(address: str, first: bytes) -> FromController:
    """What the controller says to a stream that begins with these bytes and then waits."""
    with grpc.insecure_channel(address) as channel:
        said = threading.Event()

        def frames() -> Iterator[bytes]:
            yield first
            said.wait(WAIT_S)

        call: Any = channel.stream_stream(f"/{SERVICE}/Join")(frames(), timeout=WAIT_S)
        raw = next(call)
        said.set()
        return read_from_controller(raw)


def test_a_run_from_hello_to_goodbye() -> None:
    with Cluster(servers=2, workers=2) as cluster:
        servers = cluster.servers()
        assert [peer.link.welcome.shard for peer in servers] == [0, 1]
        workers = [cluster.join("worker") for _ in range(2)]
        addresses = {shard: peer.link.hello.data_address for shard, peer in enumerate(servers)}
        assert all(peer.link.welcome.servers == addresses and peer.link.welcome.shard == -1 for peer in workers)
        enrolled = [peer.enroll(nonce=5 + rank) for rank, peer in enumerate(workers)]
        assert [(int(e.rank), e.nonce, e.size) for e in enrolled] == [(0, 5, 2), (1, 6, 2)]
        for rank, peer in enumerate(workers):
            peer.say(Register(WorkerId(rank), 1, 0, (SPEC,)))
        for shard, peer in enumerate(servers):
            place(peer, shard)
        assert workers[0].expect(Registered).initialise
        assert int(workers[1].expect(Waiting).worker) == 0
        workers[0].say(BatchReady(WorkerId(0), 1, 0))
        assert not workers[1].expect(Registered).initialise
        workers[1].say(Log(WorkerId(1), 1, Clock(4), 0.0, ("loss",), (0.5,)))
        workers[1].say(Progress(WorkerId(1), 1, Clock(4)))
        for rank, peer in enumerate(workers):
            done(peer, rank)
        assert [peer.end() for peer in (*servers, *workers)] == [("all workers are done", False)] * 4
        assert cluster.server.wait(WAIT_S) and cluster.server.outcome == ("all workers are done", False)
        status = cluster.server.status()
        assert [(w["rank"], w["state"], w["clock"]) for w in status["workers"]] == [(0, "done", 0), (1, "done", 4)]
        assert status["workers"][1]["logged"] == {"loss": 0.5} and status["workers"][1]["silent_s"] >= 0
        assert status["servers"][1] == {"shard": 1, "address": addresses[1], "state": "done"}
        assert (status["stopped"], status["failed"], status["rejected"]) == ("all workers are done", False, 0)


def test_a_worker_whose_stream_ends_is_lost_to_the_servers_and_the_others_go_on() -> None:
    with Cluster(servers=2, workers=2) as cluster:
        servers, workers = cluster.servers(), cluster.workers(2)
        workers[0].link.close()
        assert [peer.expect(Lost) for peer in servers] == [Lost(WorkerId(0), 1, False)] * 2
        workers[1].say(Barrier(WorkerId(1), 1, 1, False))
        assert workers[1].expect(BarrierOpen).number == 1
        assert cluster.server.status()["workers"][0]["state"] == "lost"


def test_a_killed_worker_process_is_lost() -> None:
    script = """
import sys
from ps import wire
from ps.control.hello import Hello
from ps.control.link import ControlLink
from ps.messages import Enroll
link = ControlLink(sys.argv[1], Hello("worker"), lambda raw: print("enrolled", flush=True), print)
link.send(wire.encode(link.welcome.job, Enroll(-1, False, 1)))
sys.stdin.read()
"""
    with Cluster(servers=1, workers=2) as cluster:
        (server,) = cluster.servers()
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": CHECKOUT}
        with subprocess.Popen([sys.executable, "-c", script, cluster.server.address], **pipes) as process:
            assert process.stdout is not None and process.stdout.readline() == b"enrolled\n"
            process.kill()
        assert int(server.expect(Lost).worker) == 0


def test_a_server_whose_stream_ends_ends_the_job_naming_its_shard() -> None:
    with Cluster(servers=2, workers=1) as cluster:
        servers, (worker,) = cluster.servers(), cluster.workers(1)
        servers[1].link.close()
        stop = worker.expect(Stop)
        assert stop.failed and "server 1 was lost (its connection ended)" in stop.reason
        assert cluster.server.status()["servers"][1]["state"] == "lost"
        done(worker, 0)
        assert [peer.end() for peer in (servers[0], worker)] == [(stop.reason, True)] * 2
        assert cluster.server.wait(WAIT_S) and cluster.server.outcome == (stop.reason, True)


def test_a_failed_job_does_not_wait_long_for_who_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "LEAVE_S", 0.05)
    with Cluster(workers=2) as cluster:
        cluster.servers()
        stuck, broken = cluster.workers(2)
        done(broken, 1, "Traceback: boom")
        assert stuck.expect(Stop).failed
        reason, failed = stuck.end()
        assert failed and "worker 1 failed at clock 0:\nTraceback: boom" in reason
        assert cluster.server.wait(WAIT_S)


def test_what_the_owner_knows_of_losses_reaches_the_core() -> None:
    with Cluster(workers=2) as cluster:
        (server,) = cluster.servers()
        workers = cluster.workers(2)
        cluster.server.worker_lost(0, "exit code 137")
        assert int(server.expect(Lost).worker) == 0
        cluster.server.server_lost(0, "exit code 1")
        assert "server 0 was lost (exit code 1)" in workers[1].expect(Stop).reason


def test_a_later_stream_of_a_rank_replaces_the_older() -> None:
    with Cluster(workers=1) as cluster:
        cluster.servers()
        (old,) = cluster.workers(1)
        new = cluster.join("worker")
        assert (new.enroll(rank=0, nonce=2).incarnation, int(new.link.welcome.shard)) == (2, -1)
        old.say(Progress(WorkerId(0), 1, Clock(9)))
        assert old.expect(Rejected).fenced
        old.link.close()
        new.say(Barrier(WorkerId(0), 2, 1, False))
        assert new.expect(BarrierOpen).number == 1
        assert cluster.server.status()["workers"][0]["state"] == "running"


def test_readers_get_what_is_placed_and_count_nowhere() -> None:
    with Cluster(workers=1) as cluster:
        (server,), (worker,) = cluster.servers(), cluster.workers(1)
        readers = [cluster.join("reader") for _ in range(2)]
        for reader in readers:
            reader.say(Enroll(WorkerId(-1), True, 0))
            assert int(reader.expect(Enrolled).rank) == -1
        readers[0].link.close()
        worker.say(Register(WorkerId(0), 1, 0, (SPEC,)))
        place(server, 0)
        place(readers[1], -1)
        assert cluster.server.status()["rejected"] == 0
        done(worker, 0)
        assert readers[1].expect(Stop).reason == "all workers are done"
        assert readers[1].end() == ("all workers are done", False)


def test_a_worker_without_progress_is_lost_by_its_lease() -> None:
    with Cluster(workers=1, lease_s=0.05) as cluster:
        (server,), _ = cluster.servers(), cluster.workers(1)
        assert int(server.expect(Lost).worker) == 0
        reason, failed = server.end()
        assert failed and "no progress for" in reason


def test_garbage_is_counted_and_harmless() -> None:
    with Cluster(workers=1) as cluster:
        (server,), (worker,) = cluster.servers(), cluster.workers(1)
        bad = [b"", b"\xc1garbage", wire.encode(b"another job's id", Placed(0, 1))]
        for raw in bad:
            worker.link.send(raw)
        worker.link.metrics("{no json")
        worker.link.metrics("[" * 100_000)
        worker.link._post(Hello("worker"))
        server.say(Placed(7, 1))
        assert "Placed.shard: expected 0, the sender's own, got 7" in server.expect(Rejected).reason
        server.say(Done(WorkerId(0), 1, ""))
        assert "Done.worker: expected the sender, a server, got 0" in server.expect(Rejected).reason
        worker.say(Enroll(WorkerId(-1), False, 3))
        assert "another from worker 0" in worker.expect(Rejected).reason
        assert cluster.server.status()["rejected"] == len(bad) + 6
        worker.say(Barrier(WorkerId(0), 1, 1, False))
        assert worker.expect(BarrierOpen).number == 1


def test_every_logged_value_is_handed_out_once_in_order() -> None:
    with Cluster(workers=2) as cluster:
        cluster.servers()
        first, second = cluster.workers(2)
        for clock in (1, 1, 2):
            first.say(Log(WorkerId(0), 1, Clock(clock), 0.0, ("loss", "acc"), (0.5, clock / 2)))
        first.say(Log(WorkerId(0), 7, Clock(9), 0.0, ("loss",), (0.0,)))  # another incarnation's
        assert first.expect(Rejected).fenced
        first.say(Progress(WorkerId(0), 1, Clock(2)))
        cluster.until(lambda status: status["workers"][0]["clock"] == 2)
        logs = cluster.server.take_logs()
        assert [(log.rank, log.clock, log.values) for log in logs] == [
            (0, clock, {"loss": 0.5, "acc": clock / 2}) for clock in (1, 1, 2)
        ]
        assert logs[0].at <= logs[2].at <= time.monotonic() and cluster.server.take_logs() == []
        second.say(Log(WorkerId(1), 1, Clock(3), 0.0, ("loss",), (0.5,)))
        done(second, 1)
        done(first, 0)
        first.end()
        assert [log.values for log in cluster.server.take_logs()] == [{"loss": 0.5}]  # after the end too


def test_servers_get_the_shard_that_they_want() -> None:
    with Cluster(servers=3) as cluster:
        assert cluster.join("server", shard=2).link.welcome.shard == 2
        assert cluster.join("server").link.welcome.shard == 0
        with pytest.raises(ConfigError, match=r"shard: expected one of 0 to 2 .* got 2, which the server at tcp://"):
            cluster.join("server", shard=2)
        with pytest.raises(ConfigError, match=r"shard: expected one of 0 to 2 that no other server holds, got 3; "):
            cluster.join("server", shard=3)
        with pytest.raises(ConfigError, match=r"shard: expected -1 from a reader, got 1"):
            cluster.join("reader", shard=1)


def test_metrics_are_kept_as_last_sent() -> None:
    with Cluster(workers=1) as cluster:
        (server,), (worker,) = cluster.servers(), cluster.workers(1)
        for peer, number in ((server, 1), (worker, 2), (worker, 3)):
            peer.link.metrics(json.dumps({"counters": [["pushes", {}, number]]}))
        status = cluster.until(lambda s: s["metrics"].get("worker:0") == {"counters": [["pushes", {}, 3]]})
        assert status["metrics"]["server:0"] == {"counters": [["pushes", {}, 1]]}


def test_another_jobs_id_is_refused_naming_both() -> None:
    with Cluster() as cluster:
        with pytest.raises(ConfigError) as refused:
            cluster.join("worker", job=b"\xee" * 16)
        assert "ee" * 16 in str(refused.value) and cluster.server.job.hex() in str(refused.value)
        assert cluster.server.status()["refused"] == 1
        assert cluster.join("server", job=cluster.server.job).link.welcome.shard == 0


def test_one_server_too_many_and_one_twice_are_refused() -> None:
    with Cluster(servers=2) as cluster:
        first = cluster.join("server")
        with pytest.raises(ConfigError, match=r"data_address: expected .* got tcp://.*, where server 0 is"):
            cluster.join("server", data_address=first.link.hello.data_address)
        cluster.join("server")
        with pytest.raises(ConfigError, match="servers: expected at most 2 servers, got one more"):
            cluster.join("server")


def test_workers_wait_for_all_servers_but_not_for_ever() -> None:
    with Cluster(servers=3, hello_s=0.3) as cluster:
        cluster.join("server")
        with pytest.raises(ConfigError, match=r"expected 3 servers, got 1 after 0\.3 s, 2 missing; start the missing"):
            cluster.join("worker")


def test_the_first_frame_must_be_a_hello_and_in_time() -> None:
    with Cluster(hello_s=0.3) as cluster:
        late = answer(cluster.server.address, to_controller(Hello("worker")))
        assert isinstance(late, Refusal) and late.field == "servers"
        for first in (to_controller(Body(b"x")), b"\xffgarbage"):
            refusal = answer(cluster.server.address, first)
            assert isinstance(refusal, Refusal) and refusal.field == "hello", refusal
        with grpc.insecure_channel(cluster.server.address) as channel:
            never = threading.Event()

            def silent() -> Iterator[bytes]:
                never.wait(WAIT_S)
                yield from ()

            call: Any = channel.stream_stream(f"/{SERVICE}/Join")(silent(), timeout=WAIT_S)
            refusal = read_from_controller(next(call))
            never.set()
        assert isinstance(refusal, Refusal) and refusal.expected == "a Hello within 0.3 s"


def test_commands_ask_and_stop_without_joining() -> None:
    with Cluster() as cluster, grpc.insecure_channel(cluster.server.address) as channel:
        (server,), (worker,) = cluster.servers(), cluster.workers(1)
        ask: Any = channel.unary_unary(f"/{SERVICE}/Status")
        reply = json.loads(pb.StatusReply.FromString(ask(b"", timeout=WAIT_S)).json)
        assert reply["workers"][0]["state"] == "running" and reply["stopped"] is None
        stop: Any = channel.unary_unary(f"/{SERVICE}/Stop")
        stop(pb.StopRequest(reason="enough").SerializeToString(), timeout=WAIT_S)
        assert worker.expect(Stop) == Stop("enough", False)
        assert cluster.server.outcome is None  # the worker finishes its clock first
        done(worker, 0)
        assert server.end() == worker.end() == ("enough", False)
        with pytest.raises(grpc.RpcError) as error:
            stop(b"\xff", timeout=WAIT_S)
        assert "INVALID_ARGUMENT" in str(error.value)
        late = answer(cluster.server.address, to_controller(Hello("worker")))
        assert late == Goodbye("enough", False)


def test_a_taken_port_is_named() -> None:
    with Cluster() as cluster:
        port = int(cluster.server.address.rpartition(":")[2])
        second = ControlServer(RunConfig(), port=port)
        with pytest.raises(ConfigError, match=f"port: expected one that is free on 127.0.0.1, got {port}"):
            second.start()
        second.close()
        with pytest.raises(ConfigError, match="call start"):
            second.status()


def test_two_clusters_of_one_host_do_not_meet() -> None:
    with Cluster() as one, Cluster() as other:
        assert one.server.job != other.server.job and one.server.address != other.server.address
        for cluster in (one, other):
            cluster.servers()
            (worker,) = cluster.workers(1)
            assert worker.link.welcome.job == cluster.server.job
        one.server.close()
        assert one.peers[1].end()[0] == "the controller was closed"
        other.peers[1].say(Barrier(WorkerId(0), 1, 1, False))
        assert other.peers[1].expect(BarrierOpen).number == 1


def test_close_leaves_no_threads_and_says_goodbye() -> None:
    before = set(threading.enumerate())
    with Cluster() as cluster:
        (server,), (worker,) = cluster.servers(), cluster.workers(1)
        cluster.server.close()
        assert server.end() == worker.end() == ("the controller was closed", True)
        assert cluster.server.wait(0) and cluster.server.status()["failed"]
        cluster.server.close()
    deadline = time.monotonic() + WAIT_S
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), thread


def test_ipv6_too() -> None:
    server = ControlServer(RunConfig(), host="::1")
    try:
        address = server.start()
    except ConfigError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    try:
        assert address.startswith("[::1]:")
        peer = Peer(address, server.job, Hello("server", data_address="tcp://[::1]:1"))
        assert isinstance(peer.link.welcome, Welcome)
        peer.link.close()
    finally:
        server.close()
