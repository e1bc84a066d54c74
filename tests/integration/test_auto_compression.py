"""`compression="auto"`: one link is measured, everybody is told what it has become, and what a script names holds."""

from __future__ import annotations

import numpy as np
import pytest

import ps
from ps.compression.auto import decide, decided
from ps.config import RunConfig
from ps.keyspace import Options, Parameter
from ps.worker import probe

GIGABIT = 1.25e8  # bytes per second
WIDE = Parameter("w", (1024, 1024), "float32")
NARROW = Parameter("b", (1000,), "float32")


def train(client: ps.Client) -> dict[str, int]:
    values = {"w": np.zeros((64, 64), np.float32), "own": np.zeros(4096, np.float32), "b": np.zeros(8, np.float32)}
    client.register(values, {"own": Options(push_compression="none")})
    for _ in range(3):
        client.pull()
        client.push({name: np.full_like(value, 0.5) for name, value in values.items()})
        client.tick()
    client.barrier()
    counters = client.metrics.snapshot().counters
    pushed = counters["push_bytes", (("direction", "sent"),)]
    pulled = counters["pull_bytes", (("direction", "received"),)]
    return {"pushed": int(pushed), "pulled": int(pulled)}


@pytest.mark.parametrize("consistency", ["bsp", "async"])
@pytest.mark.parametrize("seed", [1, None])
def test_everybody_is_told_what_pays_on_the_measured_link(
    consistency: str, seed: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "measured", lambda worker, timeout_s: GIGABIT / 100)
    raw, encoded = 4 * 4096, 16 + 8 * (8 + 64)  # of a slice of 4096 elements
    with ps.LocalCluster(workers=2, consistency=consistency, compression="auto", seed=seed) as cluster:
        for sizes in cluster.run(train):
            assert sizes["pushed"] == 3 * (encoded + raw + 4 * 8)
            assert sizes["pulled"] == (2 * raw + 4 * 8) + 2 * (2 * encoded + 4 * 8)
    assert capsys.readouterr().err.startswith("ps: compression onebit: ")


def test_on_a_fast_link_it_switches_itself_off(capsys: pytest.CaptureFixture[str]) -> None:
    with ps.LocalCluster(workers=2, compression="auto") as cluster:  # nothing is as fast as one process
        for sizes in cluster.run(train):
            assert sizes["pushed"] == sizes["pulled"] == 3 * 4 * (4096 + 4096 + 8)
    assert capsys.readouterr().err.startswith("ps: compression none: ")


@pytest.mark.parametrize(
    ("parameters", "link", "spec"),
    [([WIDE], GIGABIT, "onebit"), ([WIDE], 1000 * GIGABIT, "none"), ([NARROW], GIGABIT / 100, "none")],
)
def test_the_decision_follows_link_and_sizes(parameters: list[Parameter], link: float, spec: str) -> None:
    decision = decide(parameters, link)
    assert decision.spec == spec and decision.why


def test_what_is_named_is_not_decided() -> None:
    config = RunConfig.check({"compression": "auto", "pull_compression": "int8"})
    assert decided(config, Options(), "onebit") == Options(push_compression="onebit", pull_compression="int8")
    assert decided(config, Options(push_compression="topk"), "onebit").push_compression == "topk"
    compares = RunConfig.check({"compression": "auto", "optimizer": "dcasgd:lam=1+sgd:lr=1"})
    assert decided(compares, Options(), "onebit") == Options(push_compression="onebit", pull_compression="none")


@pytest.mark.parametrize(
    ("consistency", "servers_mb"), [("bsp", "4.2 MB in the servers"), ("async", "12.6 MB in the servers")]
)
def test_the_user_is_told_once_what_compression_costs(
    consistency: str, servers_mb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def register(client: ps.Client) -> None:
        client.register({"w": np.zeros((1024, 1024), np.float32), "b": np.zeros(8, np.float32)})

    with ps.LocalCluster(workers=3, consistency=consistency, compression="onebit") as cluster:
        cluster.run(register)
    (line,) = capsys.readouterr().err.splitlines()
    sizes = "pushes onebit+raw, at most 0.1 MB; pulls onebit+raw, at most 0.1 MB"
    assert f"4.2 MB of parameters: {sizes}" in line and f"8.4 MB in each worker, {servers_mb}" in line
