"""Predictions of whole experiments, held against formulas."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ps.config import RunConfig
from ps.errors import ConfigError
from ps.experiments.files import TCP_SHARE, Experiment, in_virtual_time, parse_experiment
from ps.predict.simulate import check_workers, predict, predict_experiment, table, write_csv
from ps.sim.network import Host, Network
from tests.unit.predict.profiles import profile

FILE = """
name = "linked"
script = "train.py"
world = "netlab"   # as it was
seeds = [1, 2]

[run]
workers = 4

[links]
rate_mbit = 100

[grid]
compression = ["none", "onebit"]

[tune]
metric = "val"
best = "min"
world = 'processes'
grid = { optimizer = ["sgd:lr=0.1", "sgd:lr=1"] }

[report]
metric = "loss"
best = "min"
"""


def experiment(folder: Path, text: str = FILE) -> Experiment:
    (folder / "train.py").write_text("")
    path = folder / "e.toml"
    return parse_experiment(path, in_virtual_time(path, text))


def test_a_clock_takes_what_the_card_of_the_server_takes(tmp_path: Path) -> None:
    """All four workers push and pull 1 MB over the server's one card of 100 Mbit/s; nothing overlaps in one slice."""
    half = profile(push_share=0.5, pull_share=0.5, compression="onebit")
    [plain, coded] = predict_experiment(experiment(tmp_path), tmp_path, [profile(), half], 5)
    wire_s = 4 * 1e6 * 8 / (100e6 * TCP_SHARE)
    assert plain.arm == "none"
    assert plain.clock_s == pytest.approx(0.1 + 2 * wire_s, rel=0.01)
    assert coded.clock_s == pytest.approx(0.1 + wire_s, rel=0.01)
    assert plain.step_bytes == pytest.approx(2e6, rel=0.01)
    assert plain.commits_per_s == pytest.approx(1 / plain.clock_s, rel=0.1)
    assert plain.staleness_max == 0


def test_work_is_paid_for_in_turn() -> None:
    """One worker, no links: messages and bytes, at both ends."""
    costs = {"worker_message_s": 0.01, "server_message_s": 0.02, "apply_s_per_byte": 1e-7, "decode_s_per_byte": 3e-7}
    found = predict("one", RunConfig(), profile(costs={**costs, "encode_s_per_byte": 2e-7}), Network(), 5)
    assert found.clock_s == pytest.approx(0.1 + 2 * 0.01 + 0.02 + 1e6 * (1e-7 + 3e-7 + 2e-7), rel=1e-6)


def test_who_is_slow_is_waited_for() -> None:
    """Declared compute counts instead of the measured one, times the slowdown of the last worker."""
    config = RunConfig(workers=3, compute_s=1.0, stragglers="persistent:factor=4", seed=1)
    found = predict("slow", config, profile(compute_s=50.0), Network(), 5)
    assert found.clock_s == pytest.approx(4.0)
    assert found.waited_for == 2
    free = predict("free", config.model_copy(update={"consistency": "async"}), profile(), Network(), 20)
    assert free.waited_for is None
    assert free.staleness_max > 0


def test_stragglers_slow_what_was_measured(tmp_path: Path) -> None:
    """Only runs with payload need a declared compute for that."""
    (tmp_path / "train.py").write_text("")
    text = FILE.replace("workers = 4", 'workers = 2\nstragglers = "persistent:factor=3"').replace(', "onebit"', "")
    made = parse_experiment(tmp_path / "e.toml", text.replace("rate_mbit = 100", ""))
    [found] = predict_experiment(made, tmp_path, [profile(compute_s=0.2)], 5)
    assert found.clock_s == pytest.approx(0.6)


def test_delays_are_halved_between_two_hosts() -> None:
    network = Network(worker=Host(delay_s=0.5), server=Host(delay_s=0.25))
    assert predict("far", RunConfig(), profile(), network, 5).clock_s == pytest.approx(0.1 + 2 * 0.75)


def test_an_arm_without_its_profile_is_named(tmp_path: Path) -> None:
    words = "onebit: expected a profile with its compression, onebit, got none; make one with psctl profile"
    with pytest.raises(ConfigError, match=words):
        predict_experiment(experiment(tmp_path), tmp_path, [profile()], 5)


def test_the_world_changes_and_nothing_else(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    assert (made.world, made.tune and made.tune.world) == ("virtual", "virtual")
    assert made.links.rate_mbit == 100
    inline = FILE.replace("world = 'processes'\n", "").replace("[tune]", 'tune.world = "processes"\n[tune.grid]')
    with pytest.raises(ConfigError):
        experiment(tmp_path, inline)


def test_ranks_are_refused(tmp_path: Path) -> None:
    text = FILE + '[[compare]]\nname = "ddp"\nlaunch = "ranks"\nargs = ["{compression}", "{optimizer}"]\n'
    made = parse_experiment(tmp_path / "e.toml", text)
    (tmp_path / "train.py").write_text("")
    with pytest.raises(ConfigError, match="ddp, none: launch: expected a cluster of ours to predict, got ranks"):
        predict_experiment(made, tmp_path, [profile()], 5)
    with pytest.raises(ConfigError, match="launch: expected world = processes or netlab for ranks, got virtual"):
        check_workers(experiment(tmp_path, text), tmp_path)


def test_many_workers_need_a_profile(tmp_path: Path) -> None:
    check_workers(experiment(tmp_path, FILE.replace("workers = 4", "workers = 64")), tmp_path)
    many = experiment(tmp_path, FILE.replace("workers = 4", "workers = 65"))
    with pytest.raises(ConfigError, match="none: workers: expected at most 64 with payload, got 65; without"):
        check_workers(many, tmp_path)


def test_the_csv_has_what_the_table_shows(tmp_path: Path) -> None:
    found = [predict("one", RunConfig(workers=2), profile(), Network(), 3)]
    write_csv(found, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["arm"] == "one"
    assert float(row["clock_s"]) == found[0].clock_s
    assert table(found).rows[0][:2] == ("one", "0.1")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_csv(found, tmp_path / "no" / "out.csv")
