"""Local steps: H clocks alone, then one commit of everybody's delta; and how models are named."""

from __future__ import annotations

import numpy as np
import pytest

from ps.consistency import CONSISTENCY, Cadence, Gather, OnArrival, consistency
from ps.errors import ConfigError
from tests.scenarios.drive import Drive


def test_the_three_answers() -> None:
    model = consistency("local:every=3,local_lr=0.1")
    assert model.cadence == Cadence(push_every=3, pull_every=3, carries="delta", local_lr=0.1)
    assert model.commit(4) == Gather(quorum=4, by="clock", clocks=3)
    clocks, versions = np.array([0, 2, 3, 5, 6]), np.array([0, 0, 1, 1, 1])
    assert model.gate(clocks, clocks, versions, False).tolist() == [True, True, True, True, False]


def test_one_step_alone_is_bsp() -> None:
    model, bsp = consistency("local:every=1,local_lr=0.1"), consistency("bsp")
    clocks, versions = np.arange(6), np.array([0, 0, 2, 3, 3, 9])
    assert np.array_equal(model.gate(clocks, clocks, versions, False), bsp.gate(clocks, clocks, versions, False))
    assert model.commit(3) == bsp.commit(3)


def test_fragments_end_their_rounds_one_after_the_other() -> None:
    cadence = consistency("local:every=8,fragments=4").cadence
    assert (cadence.stretch, cadence.overlap, cadence.mix) == (2, 0, 0.0)
    for slice_id in range(9):
        shift = int(cadence.shift_E(np.array([slice_id]))[0])
        ends = [clock for clock in range(1, 25) if (clock + shift) % 8 == 0]
        assert ends == [clock for clock in range(1, 25) if (clock - slice_id % 4 * 2) % 8 == 0]
        assert 0 <= shift < 8, "it is round 0 at clock 0"


def test_overlap_mixes_half_and_half_unless_it_is_told() -> None:
    assert consistency("local:overlap=5").cadence.mix == 0.5
    assert consistency("local:overlap=5,mix=0").cadence.mix == 0.0
    assert consistency("local:mix=0.25").cadence.mix == 0.25


def test_a_slice_commits_when_its_fragment_has_its_turn() -> None:
    shard = Drive("local:every=4,fragments=2,local_lr=0.1", slices=2)
    for worker in (0, 1):
        lines = shard.push(worker, slices=[1], clock=1) + shard.tick(worker, clock=1)
    assert lines[-1] == "apply 1 -> v1: worker 0#1, worker 1#1; lr 0.1"
    assert shard.pull(0, slices=[0, 1], clock=2) == [], "slice 1 is in flight"
    answer = "worker:0 <- values for pull 1: 0 v0, 1 v1; min clock 0; lr 0.1 x 1"
    assert answer in shard.settle()
    for worker in (0, 1):
        lines = shard.push(worker, slices=[0], clock=3) + shard.tick(worker, clock=3)
    assert lines[-1] == "apply 0 -> v1: worker 0#1, worker 1#1; lr 0.1"


def test_a_worker_comes_back_to_the_last_exchange_that_its_slices_have_seen() -> None:
    shard = Drive("local:every=4,fragments=2,local_lr=0.1", slices=2, keep=True)
    shard.tick(0, clock=1)
    assert shard.join(0, incarnation=2)[-1] == "worker:0 <- welcome, clock 2: 0#0 clock 0, 1#0 clock 2"


def test_asynchronous_local_steps_differ_in_gate_and_commit_only() -> None:
    model = consistency("async_local:every=3,local_lr=0.1")
    assert model.cadence == consistency("local:every=3,local_lr=0.1").cadence
    assert model.commit(4) == OnArrival(rate=0.25)
    assert model.gate(np.array([0, 9]), np.zeros(2, np.int64), np.zeros(2, np.int64), False).all()


def test_a_round_is_so_many_clocks_and_a_version_one_round() -> None:
    shard = Drive("local:every=3,local_lr=0.1")
    for worker in (0, 1):
        lines = shard.push(worker, clock=2) + shard.tick(worker, clock=2)
    assert lines[-1] == "apply 0 -> v1: worker 0#1, worker 1#1; lr 0.1"
    shard.settle()
    assert shard.pull(0) == ["worker:0 <- values for pull 1: 0 v1; min clock 3; lr 0.1 x 1"]


def test_asynchronous_local_steps_commit_on_arrival_while_the_other_worker_sleeps() -> None:
    shard = Drive("async_local:every=3,local_lr=0.1")
    for version in (1, 2):
        lines = shard.push(0, clock=3 * version - 1)
        assert lines[-1] == f"apply 0 -> v{version}: worker 0#{version}; lr 0.05"
        shard.settle()
        shard.tick(0, clock=3 * version - 1)
        answer = f"worker:0 <- values for pull {version}: 0 v{version}; min clock 0; lr 0.1 x 0.5"
        assert shard.pull(0) == [answer]


def test_the_schedule_counts_clocks_not_rounds() -> None:
    shard = Drive("local:every=10,local_lr=0.1", workers=1)
    shard.set_lr(0.5, clock=10)
    for clock, rate in ((9, 0.1), (19, 0.5)):
        lines = shard.push(0, clock=clock) + shard.tick(0, clock=clock)
        assert lines[-1].endswith(f"lr {rate}")
        shard.settle()


@pytest.mark.parametrize("name", sorted(CONSISTENCY))
def test_every_model_answers_by_slice_for_any_number_of_slices(name: str) -> None:
    needs = {"ssp": ":staleness=1", "quorum": ":n=2", "local": ":local_lr=0.1", "easgd": ":alpha=0.5"}
    model = consistency(name + needs.get(name, ""))
    assert model.__doc__
    for slices in (0, 1, 5):
        zeros = np.zeros(slices, np.int64)
        gate = model.gate(zeros, zeros, zeros, True)
        assert gate.dtype == np.bool_ and gate.shape == (slices,) and gate.all(), "nobody waits at the first clock"
    assert model == consistency(name + needs.get(name, ""))


def test_ones_own_model_is_named_by_its_module() -> None:
    assert consistency("ps.consistency.ssp:StaleSynchronous:staleness=2") == consistency("ssp:staleness=2")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("ssp", "consistency: ssp: staleness: expected a value, got none"),
        ("bsp:n=1", "consistency: bsp expected no options, got 'n'"),
        ("local:every=0,local_lr=0.1", "consistency: local: every: expected greater than or equal to 1, got '0'"),
        ("local:every=6,fragments=4", "local: fragments: expected a divisor of every=6, .*, got 4"),
        (
            "local:every=6,fragments=2,overlap=3",
            "local: overlap: expected fewer clocks than the 3 between two .*, got 3",
        ),
        ("local:every=1,overlap=1", "local: overlap: expected fewer clocks than the 1 between two exchanges .*, got 1"),
        ("local:mix=1", "local: mix: expected less than 1, got '1'"),
        ("local:local_lr=-1", "consistency: local: local_lr: expected greater than or equal to 0, got '-1'"),
        (
            "BSP",
            "consistency: expected one of async, async_local, bsp, .*, ssp or package.module:Class, got 'BSP'",
        ),
        ("ps.optim.sgd:Sgd:lr=1", "consistency: expected a subclass of ps.consistency.Consistency"),
    ],
)
def test_a_wrong_model_is_refused_in_words(spec: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        consistency(spec)
