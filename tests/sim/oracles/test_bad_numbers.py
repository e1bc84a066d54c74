"""NaN and Inf, and peers who send what no honest worker does: named, counted, and no harm to anybody else."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from ps import wire
from ps.errors import PeerError
from ps.messages import Push
from ps.sim.links import LinkFaults
from ps.sim.loop import JOB, Simulator
from ps.sim.scripts import Script
from ps.transport.base import Message
from ps.types import Clock, PeerId, WorkerId, server_peer, worker_peer
from ps.worker.client import Client
from ps.worker.verdicts import Refused
from tests.sim.helpers import MODELS, simulate


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("seed", "model"), list(enumerate(MODELS)))
def test_a_push_that_is_not_finite_is_dropped_whole_and_named(
    seed: int, model: str, bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    """As if the worker had not pushed in that clock: nobody fails, nothing is lost of the others."""
    workers, clocks = 2, 6

    def train(client: Client) -> tuple[Any, int]:
        shape = (workers, clocks)
        client.register({"w": np.zeros(shape, np.float32), "b": np.zeros(3)})
        verdict: Any = None
        for clock in range(clocks):
            client.pull()
            mark = np.zeros(shape, np.float32)
            mark[client.rank, clock] = 1
            wrong = (client.rank, clock) == (1, 2)
            future = client.push({"w": mark, "b": np.full(3, bad if wrong else 1.0)})
            if wrong:
                verdict = list(future.verdicts().values())
            client.tick()
        client.barrier()
        return verdict, client.metrics.snapshot().total("nonfinite_pushes")

    with caplog.at_level(logging.WARNING, "ps"):
        run = simulate(train, seed=seed, workers=workers, consistency=model, optimizer="add")
    verdicts, counted = zip(*run.results, strict=True)
    assert counted == (0, 1), run.say(f"counted {counted}")
    assert isinstance(verdicts[1][0], Refused) and "b" in verdicts[1][0].reason, run.say(f"verdict {verdicts[1]}")
    assert "worker 1" in caplog.text and "clock 2" in caplog.text and " b" in caplog.text, run.say(caplog.text)
    assert run.counted("nonfinite_pushes") == 0, run.say("it reached a server")
    if model.partition(":")[0] in ("bsp", "ssp", "async"):
        expected = np.ones((workers, clocks), np.float32)
        expected[1, 2] = 0
        assert (run.final()["w"] == expected).all(), run.say(f"updates: {run.final()['w']}")
    assert all(np.isfinite(value).all() for value in run.final().values()), run.say("a server holds it")


@pytest.mark.parametrize("model", ["bsp", "async", "ssp:staleness=1", "quorum:n=1"])
def test_a_bad_peers_frame_is_refused_counted_and_the_worker_fenced(model: str) -> None:
    """Rank 1 sends NaN past the client's own check: the server's values stay finite, it is told why and stops."""
    said: list[str] = []

    def train(client: Client) -> None:
        client.register({"w": np.zeros(5, np.float32)})
        for clock in range(4):
            client.pull()
            if (client.rank, clock) == (1, 2):
                client._worker.pushing.push({"w": np.full(5, np.nan, np.float32)}, 1.0, True, 1.0)
                client.tick()
                with pytest.raises(PeerError) as caught:
                    client.pull()
                said.append(str(caught.value))
                raise caught.value
            client.push({"w": np.ones(5, np.float32)})
            client.tick()

    run = simulate(train, seed=3, workers=2, consistency=model, optimizer="add", faults=LinkFaults(), fails=True)
    assert run.counted("nonfinite_pushes") == 1, run.say(f"counted {run.counted('nonfinite_pushes')}")
    assert "worker 1" in said[0] and "'w'" in said[0] and "fenced" in said[0], run.say(said[0])
    assert np.isfinite(run.final()["w"]).all(), run.say(f"values {run.final()['w']}")
    assert not run.scripts[0].error or "worker 1" in str(run.scripts[0].error), run.say(str(run.scripts[0].error))


def test_a_strangers_frames_do_no_harm() -> None:
    """Frames of wrong sizes, slices and ranks, from somebody who speaks the protocol."""
    heads = [
        (1, [0], [1], 4),  # too short
        (1, [0], [1], 44),  # too long
        (1, [7], [1], 20),  # no such slice
        (9, [0], [1], 20),  # no such worker
        (-1, [0], [1], 20),
        (1, [0, 0], [1, 2], 20),  # one buffer for two slices
    ]

    def stranger(script: Script) -> int:
        script.spend(0.05)
        for rank, slices, numbers, size in heads:
            ids, seq, base = np.array(slices), np.array(numbers), np.zeros(len(slices), np.int64)
            body = Push(WorkerId(rank), 1, Clock(0), 1.0, ids, seq, base)
            script.send_nowait(server_peer(0), Message(wire.encode(JOB, body), [np.zeros(size, np.uint8)]))
        script.send_nowait(server_peer(0), Message(b"\xff\x00 not a header"))
        script.spend(0.5)
        return len(script.inbox)

    def train(client: Client) -> None:
        client.register({"w": np.zeros(5, np.float32)})
        for _ in range(5):
            client.pull()
            client.spend(0.05)
            client.push({"w": np.ones(5, np.float32)})
            client.tick()

    def plan(sim: Simulator) -> None:
        sim.spawn(PeerId("stranger:0"), stranger)

    run = simulate(
        {0: train}, seed=1, workers=1, servers=1, consistency="async", optimizer="add", faults=LinkFaults(), plan=plan
    )
    assert (run.final()["w"] == 5).all(), run.say(f"values {run.final()['w']}")
    assert run.counted("rejected_messages") >= 3, run.say(f"{run.counted('rejected_messages')} rejected")
    assert run.sim.scripts[worker_peer(0)].error is None
