"""Compression where things go wrong, or are about to: divergence, lost probes, late pulls, states of other codecs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ps
from ps.config import RunConfig
from ps.controller.build import build_controller
from ps.keyspace import Parameter
from ps.messages import Enroll, Register, Rejected, Spec
from ps.sim.links import LinkFaults
from ps.sim.loop import Simulator
from ps.types import PeerId, WorkerId

N = 64
ONEBIT = "onebit:min_elements=0,group=16"


def sent(client: ps.Client) -> int:
    return int(client.metrics.snapshot().counters["push_bytes", (("direction", "sent"),)])


@pytest.mark.parametrize("at_once", [False, True])
def test_the_warm_up_is_as_long_by_push_pull_as_by_push(at_once: bool) -> None:
    def train(client: ps.Client) -> list[int]:
        client.register({"w": np.zeros(N, np.float32)})
        sizes, grads = [0], {"w": np.ones(N, np.float32)}
        client.pull()
        for _ in range(4):
            if at_once:
                client.push_pull(grads)
            else:
                client.push(grads)
                client.tick()
                client.pull()
            sizes.append(sent(client))
        return np.diff(sizes).tolist()

    with ps.LocalCluster(workers=1, push_compression=f"{ONEBIT},warmup=2", seed=1) as cluster:
        frame = 16 + 4 * (8 + 4)
        assert cluster.run(train) == [[4 * N, 4 * N, frame, frame]]


@pytest.mark.parametrize("consistency", ["bsp", "async"])
@pytest.mark.parametrize("codec", [ONEBIT, "fp16:min_elements=0", "topk:min_elements=0", "int8:min_elements=0"])
def test_values_that_overflow_arrive_as_they_are(consistency: str, codec: str) -> None:
    def train(client: ps.Client) -> list[bool]:
        client.register({"w": np.zeros(N, np.float32)})
        seen = []
        for grad in (1.0, -3e38, -3e38, 1.0):
            seen.append(bool(np.isfinite(client.pull()["w"]).all()))
            client.push({"w": np.full(N, grad, np.float32)})
            client.tick()
        return [*seen, bool(np.isfinite(client.pull()["w"]).all())]

    options: dict[str, Any] = {"consistency": consistency, "pull_compression": codec, "optimizer": "sgd:lr=1"}
    with ps.LocalCluster(workers=1, seed=1, **options) as cluster:
        assert cluster.run(train) == [[True, True, True, False, False]]


@pytest.mark.parametrize("seed", range(12))
def test_a_lost_probe_is_sent_again(seed: int) -> None:
    config = RunConfig.check({"workers": 2, "compression": "auto", "resend_s": 0.05})
    sim = Simulator(config, LinkFaults(drop=0.2), seed=seed)
    scripts = [sim.run_worker(rank, lambda client: client.register({"w": np.zeros(N, np.float32)})) for rank in (0, 1)]
    sim.run(lambda: all(script.is_over for script in scripts), 100_000)
    assert [script.error for script in scripts] == [None, None]


def test_a_link_without_speed_is_refused() -> None:
    controller = build_controller(RunConfig.check({"compression": "auto"}))
    controller.handle(PeerId("worker:0"), Enroll(WorkerId(0), False, 1), 0.0)
    spec = Spec.of(Parameter("w", (N,), "float32"))
    (answer,) = controller.handle(PeerId("worker:0"), Register(WorkerId(0), 1, 0, (spec,), 0.0), 0.0)
    assert isinstance(answer.body, Rejected) and "link: expected bytes per second > 0, got 0.0" in answer.body.reason


@pytest.mark.parametrize(
    "before", ["dgc:min_elements=0", "powersgd:min_elements=0", "threshold:min_elements=0", "none"]
)
@pytest.mark.parametrize("after", [ONEBIT, "dgc:min_elements=0", "topk:min_elements=0", "none:error_feedback=true"])
def test_the_state_of_another_codec_starts_afresh_where_it_does_not_fit(before: str, after: str) -> None:
    def train(client: ps.Client) -> dict[str, Any]:
        client.register({"w": np.zeros((8, 8), np.float32)})
        client.load_state(state)
        for clock in range(3):
            client.pull()
            client.push({"w": np.random.default_rng(clock).standard_normal((8, 8)).astype(np.float32)})
            client.tick()
        client.barrier()
        return client.state()

    state: dict[str, Any] = {}
    for codec in (before, after):
        with ps.LocalCluster(workers=1, push_compression=codec, seed=1) as cluster:
            (state,) = cluster.run(train)
            assert np.isfinite(cluster.pull()["w"]).all()
