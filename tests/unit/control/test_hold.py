"""Values stay where they are after the end, until they are saved."""

from __future__ import annotations

import pytest

from ps.errors import StoppedError
from ps.messages import Enroll, Enrolled, Place, Register, Stop
from ps.types import WorkerId
from tests.unit.control.peers import SPEC, WAIT_S, Cluster, done, place


def test_held_values_can_be_read_after_the_end_until_they_are_released() -> None:
    with Cluster(workers=1, hold=True) as cluster:
        (server,), (worker,) = cluster.servers(), cluster.workers(1)
        early = cluster.join("reader")
        early.say(Enroll(WorkerId(-1), True, 0))
        early.expect(Enrolled)
        worker.say(Register(WorkerId(0), 1, 0, (SPEC,)))
        place(server, 0)
        done(worker, 0)
        assert worker.end() == ("all workers are done", False)  # workers leave as always
        assert isinstance(early.expect(Place), Place) and early.expect(Stop).reason == "all workers are done"
        late = cluster.join("reader")
        late.say(Enroll(WorkerId(-1), True, 0))
        late.expect(Place)
        late.expect(Enrolled)
        assert not late.expect(Stop).failed
        with pytest.raises(StoppedError, match="all workers are done"):
            cluster.join("worker")
        status = cluster.server.status()
        assert (status["stopped"], status["servers"][0]["state"]) == ("all workers are done", "running")
        assert cluster.server.outcome is None and server.ends.empty() and not cluster.server.wait(0)
        cluster.server.release()
        assert [peer.end() for peer in (server, early, late)] == [("all workers are done", False)] * 3
        assert cluster.server.wait(WAIT_S) and cluster.server.outcome == ("all workers are done", False)


def test_a_stop_is_held_too_but_a_failure_is_not() -> None:
    for failed in (False, True):
        with Cluster(workers=1, hold=True) as cluster:
            (server,), (worker,) = cluster.servers(), cluster.workers(1)
            cluster.server.stop("enough", failed)
            worker.expect(Stop)
            done(worker, 0)
            assert worker.end() == ("enough", failed)
            assert (cluster.server.outcome is None) == (not failed)
            cluster.server.release()
            assert server.end() == ("enough", failed)


def test_released_before_the_end_nothing_is_held() -> None:
    with Cluster(workers=1, hold=True) as cluster:
        (server,), (worker,) = cluster.servers(), cluster.workers(1)
        cluster.server.release()
        done(worker, 0)
        assert server.end() == ("all workers are done", False)


def test_a_server_lost_while_its_values_are_held_makes_the_end_a_failure() -> None:
    with Cluster(servers=2, workers=1, hold=True) as cluster:
        servers, (worker,) = cluster.servers(), cluster.workers(1)
        done(worker, 0)
        worker.end()
        servers[1].link.close()
        reason, failed = servers[0].end()
        assert failed and reason == "server 1 was lost (its connection ended) before its values were let go"
