"""Recordings and their replay, in one process: the same bytes, and other options beside twins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ps
from ps.config import RunConfig
from ps.errors import ConfigError
from ps.metrics import series
from ps.record.reader import recordings
from ps.record.replay import Changes, Replay, final_values
from ps.server.ledger import Commit, Finished, Joined, LrChanged, Record
from ps.sim.loop import Simulator
from ps.types import Array
from tests.recorded import CLOCKS, MOMENTUM, SHAPES, Train, gradients, one_slice, record, replayed, start, train
from tests.sim.helpers import end_scripts, restart

MODELS = ["bsp", "ssp:staleness=1", "async", "quorum:n=2", "local:every=2,local_lr=0.1", "downpour:local_lr=0.1"]


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "tape"


# ---- the same bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "onebit"])
@pytest.mark.parametrize("consistency", MODELS)
def test_a_replay_ends_in_the_bytes_of_the_run(tape: Path, consistency: str, compression: str) -> None:
    checksum = record(tape, consistency=consistency, compression=compression, schedule="step:every=3,decay=0.5")
    outcomes, again = replayed(tape)
    assert again == checksum
    assert [one.is_equal for one in outcomes] == [True, True]
    assert all(one.commits >= CLOCKS // 2 and one.seconds > 0.0 for one in outcomes)


@pytest.mark.parametrize("optimizer", ["staleness:kind=sqrt+dcasgd:lam=0.04+momentum:lr=0.1,decay=0.5", "adam:lr=0.01"])
def test_what_an_optimizer_remembers_is_replayed(tape: Path, optimizer: str) -> None:
    checksum = record(tape, consistency="async", optimizer=optimizer)
    assert replayed(tape)[1] == checksum


def test_threads_record_too(tape: Path) -> None:
    """In real time the order of pushes is another in each run: only what was written down can lead to these bytes."""
    assert record(tape, consistency="async", seed=None) == replayed(tape)[1]


def test_factors_and_parameters_that_come_later_are_replayed(tape: Path) -> None:
    def train(client: ps.Client) -> None:
        client.register({"w": np.ones((40, 60), np.float32)})
        rng = np.random.default_rng(client.rank)
        for clock in range(CLOCKS):
            if clock == 3:
                client.register({"late": np.ones((40, 50), np.float32)})
            pushed = rng.standard_normal((2, 40)), rng.standard_normal((2, 60))
            client.pull()
            client.push({"w": ps.Factors(*(part.astype(np.float32) for part in pushed))})
            client.tick()

    assert record(tape, train, consistency="async") == replayed(tape)[1]


def test_the_optimizer_and_the_rates_that_a_script_brings_are_replayed(tape: Path) -> None:
    def train(client: ps.Client) -> None:
        client.register(start(), optimizer=MOMENTUM)
        for clock in range(CLOCKS):
            client.pull()
            client.push(gradients(client.rank, clock))
            if clock == 3 and client.rank == 0:
                client.set_lr(0.02)
            client.tick()

    assert record(tape, train, optimizer=None) == replayed(tape)[1]


def test_staleness_and_commits_are_those_of_the_run(tape: Path) -> None:
    with ps.LocalCluster(servers=2, workers=3, consistency="async", seed=1, record=tape) as cluster:
        cluster.run(train)
        staleness = [dict(cluster.metrics())[f"server:{shard}"].histograms for shard in range(2)]
    for outcome, of_server in zip(replayed(tape)[0], staleness, strict=True):
        assert tuple(sorted(outcome.staleness.items())) == of_server[series("staleness")].buckets
        assert outcome.commits == of_server[series("staleness")].n


# ---- other options ---------------------------------------------------------------------------------------------------


def simulated(
    tape: Path, train: Train, plan: Callable[[Simulator], object] = lambda _: None, **options: Any
) -> list[list[Record]]:
    """Records a simulation; the log of every shard, as the simulator saw it. plan: called before it starts."""
    config = RunConfig.check({"servers": 1, "workers": 3, "optimizer": MOMENTUM, **options})
    log: list[list[Record]] = [[] for _ in range(config.servers)]
    tape.mkdir()
    sim = Simulator(config, seed=1, watch=lambda shard, record: log[shard].append(record), record=tape)
    try:
        for rank in range(config.workers):
            sim.run_worker(rank, train)
        plan(sim)
        sim.run()
    finally:
        end_scripts(sim)
        sim.close()
    return log


def by_numpy(log: list[Record], lr: float, set_lr: float) -> Array:
    """Momentum by hand: the pushes in the order of their commits, at these rates of three workers, halved each 3 clocks
    until the script sets the rate."""
    w_N, v_N = start()["w"], np.zeros(SHAPES["w"], np.float32)
    finished, rates = [0, 0, 0], {0: lr, 3: lr / 2, 6: lr / 4}
    for entry in log:
        if isinstance(entry, LrChanged):
            rates = {clock: rate for clock, rate in rates.items() if clock < entry.at_clock}
            rates[entry.at_clock] = set_lr
        if isinstance(entry, Finished):
            finished[entry.worker] = entry.clock
        if isinstance(entry, Commit):
            (push,) = entry.contributions
            least = max(clock for clock in rates if clock <= min(finished))
            v_N = np.float32(0.9) * v_N + gradients(push.worker, push.clock)["w"]
            w_N = w_N - np.float32(rates[least] / 3) * v_N
    return w_N


@pytest.mark.parametrize(("lr", "set_lr"), [(None, 0.2), (0.05, 0.1)])
def test_another_rate_equals_an_independent_replay_of_the_pushes(tape: Path, lr: float | None, set_lr: float) -> None:
    (log,) = simulated(tape, one_slice, consistency="async", schedule="step:every=3,decay=0.5")
    commits = [record for record in log if isinstance(record, Commit)]
    assert len(commits) == 3 * CLOCKS and any(record.staleness for record in commits)
    (recording,) = recordings(tape)
    replay = Replay(recording, Changes(lr=lr))
    replay.run()
    ours = final_values([replay])["w"]
    np.testing.assert_allclose(ours, by_numpy(log, lr or 0.1, set_lr), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"compression": "onebit"}, {"compression": "onebit"}),
        ({"compression": "qsgd"}, {"compression": "qsgd"}),
        ({"compression": "topk:ratio=0.1,warmup=2"}, {"compression": "topk:ratio=0.1,warmup=2"}),
        ({"optimizer": "adam:lr=0.01"}, {"optimizer": "adam:lr=0.01"}),
        ({"lr": 0.03, "schedule": "cosine:clocks=8"}, {"optimizer": MOMENTUM.replace("0.1", "0.03", 1)}),
        ({"schedule": "cosine:clocks=8"}, {}),
    ],
)
@pytest.mark.parametrize("consistency", ["bsp", "ssp:staleness=1"])
def test_other_options_end_as_a_run_with_them_would(
    tape: Path, tmp_path: Path, consistency: str, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    """Its twin has the same gradients, which look at no values, in the same order."""

    def train(client: ps.Client) -> None:
        client.register(start())
        for clock in range(CLOCKS):
            client.pull()
            client.push(gradients(client.rank, clock), weight=1.0 + client.rank)
            client.tick()

    schedule = {"schedule": changes["schedule"]} if "schedule" in changes else {}
    recorded = record(tape, train, consistency=consistency)
    twin = record(tmp_path / "twin", train, consistency=consistency, **options, **schedule)
    outcomes, again = replayed(tape, **changes)
    assert again == twin != recorded
    assert not any(one.is_equal for one in outcomes)


def test_what_a_dead_worker_s_frames_had_left_out_is_left_out(tape: Path, tmp_path: Path) -> None:
    """It dies while it computes; the next one computes the same clock again, with nothing left over from before."""

    def plan(sim: Simulator) -> None:
        restart(sim, 1, train, at=0.07)

    options = dict(on_worker_loss="wait", servers=2)
    logs = simulated(tape, train, plan, **options)
    assert any(isinstance(record, Joined) and record.incarnation == 2 for record in logs[0])
    simulated(tmp_path / "twin", train, plan, **options, compression="onebit")
    assert replayed(tape, compression="onebit")[1] == replayed(tmp_path / "twin")[1]


def test_a_schedule_counts_the_clocks_of_rounds(tape: Path, tmp_path: Path) -> None:
    """What a round has moved is measured from values, so a twin's is equal but for rounding."""
    schedule = "step:every=3,decay=0.5"
    record(tape, consistency="local:every=2,local_lr=0.1")
    again = [Replay(one, Changes(schedule=schedule)) for one in recordings(tape)]
    for one in again:
        one.run()
    record(tmp_path / "twin", consistency="local:every=2,local_lr=0.1", schedule=schedule)
    twins = [Replay(one) for one in recordings(tmp_path / "twin")]
    assert all(one.run().is_equal for one in twins)
    expected = final_values(twins)
    for name, value in final_values(again).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


def test_a_schedule_counts_the_clocks_of_each_fragment_s_rounds(tape: Path) -> None:
    """Fragments take turns, so their rounds begin at clocks of their own."""
    schedule = "inverse_sqrt:warmup=2"
    checksum = record(tape, consistency="local:every=4,fragments=2,local_lr=0.1", schedule=schedule)
    assert replayed(tape, schedule=schedule)[1] == checksum


def test_a_lossy_recording_takes_other_rates_and_no_other_codec(tape: Path) -> None:
    checksum = record(tape, consistency="async", compression="onebit")
    assert replayed(tape, compression="onebit")[1] == checksum
    assert replayed(tape, lr=0.01)[1] != checksum
    with pytest.raises(ConfigError, match="--compression: expected onebit, as in the recording, got topk; only "):
        replayed(tape, compression="topk")
    with pytest.raises(ConfigError, match="--compression: expected onebit, as in the recording, got none; only "):
        replayed(tape, compression="none")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lr": 0.0}, "--lr: expected a number > 0, got 0.0"),
        ({"lr": 0.1, "optimizer": "add"}, "--lr: expected an optimizer that has a rate, got Add"),
        ({"optimizer": "momentun:lr=1"}, "--optimizer: expected one of "),
        ({"optimizer": "dcasgd+sgd:lr=0.1"}, "--optimizer: expected one that does not compare with what each worker"),
        ({"schedule": "cosine"}, "--schedule: "),
        ({"compression": "onebits"}, "--compression: expected one of "),
        ({"compression": "auto"}, "--compression: expected codecs that are named, got auto"),
    ],
)
def test_wrong_changes_are_refused(tape: Path, changes: dict[str, Any], text: str) -> None:
    record(tape)
    with pytest.raises(ConfigError) as caught:
        replayed(tape, **changes)
    assert str(caught.value).startswith(text)
