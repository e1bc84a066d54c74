"""Recommendations for settings whose best is known, and the formulas beside them."""

from __future__ import annotations

import shlex

import pytest

from ps.errors import ConfigError
from ps.experiments.files import TCP_SHARE, Link
from ps.predict.profile import Check, Measured
from ps.predict.recommend import advise, check_servers, ddp_s, in_lines, loopback_mbit, slowest_s
from tests.unit.predict.profiles import profile

HOSTS = 4
BOTH = ("colocated", "1")


def known(costly: float = 0.0, compute_s: float = 0.1) -> dict[str, Measured]:
    """Three codecs with the shares that they have; costly: seconds per dense byte that two of them take to encode."""
    shares = {"none": 1.0, "int8": 0.25, "onebit": 1 / 28}
    return {
        name: profile(
            HOSTS,
            compute_s,
            compression=name,
            push_share=share,
            pull_share=share,
            costs={"encode_s_per_byte": 0.0 if name == "none" else costly / share},
        )
        for name, share in shares.items()
    }


def test_a_slow_link_takes_few_bytes_seldom() -> None:
    found = advise(known(compute_s=0.01), HOSTS, Link(rate_mbit=10), BOTH)
    assert str(found.rated[0].setting) == "local:every=20, compression onebit, servers colocated"
    assert not found.use_ddp


def test_a_codec_has_no_part_in_computing() -> None:
    """Its profile was measured at another moment."""
    slower = {name: made.model_copy(update={"compute_s": [5.0]}) for name, made in known().items() if name != "none"}
    found = advise(known() | slower, HOSTS, Link(rate_mbit=100), BOTH)
    assert all(item.predicted.clock_s < 5.0 for item in found.rated)


def test_a_fast_link_and_slow_codecs_take_none() -> None:
    """1 MB takes 1 s to encode, and 1 ms to travel: every model runs without a codec."""
    found = advise(known(costly=1e-6, compute_s=0.01), HOSTS, Link(rate_mbit=10_000), BOTH)
    assert found.rated[0].setting.compression == "none"
    for item in found.rated:
        same = [other for other in found.rated if other.setting.consistency == item.setting.consistency]
        assert same[0].setting.compression == "none", f"the fastest under {item.setting.consistency}"


def test_servers_beside_workers_share_the_bytes() -> None:
    """1 MB both ways over the one card by three workers, or a quarter of that over each of four."""
    found = advise(known(compute_s=0.0), HOSTS, Link(rate_mbit=100), BOTH)
    clock_s = {str(item.setting): item.predicted.clock_s for item in found.rated}
    one, beside = (clock_s[f"bsp, compression none, servers {servers}"] for servers in ("1", "colocated"))
    rate = 100e6 / 8 * TCP_SHARE
    assert one == pytest.approx(2 * 3 * 1e6 / rate, rel=0.02), "three of four workers reach it over its card"
    assert beside == pytest.approx(one / 4, rel=0.05)


def test_ddp_where_servers_cost_more_than_the_ring() -> None:
    """Work at servers and workers dwarfs the link: a ring does without it."""
    costs = {"apply_s_per_byte": 1e-6, "worker_message_s": 0.5}
    slow = {"none": profile(costs=costs, compute_s=0.01)}
    found = advise(slow, HOSTS, Link(rate_mbit=10_000), BOTH)
    assert found.use_ddp
    lines = in_lines(found, HOSTS, ["train.py"], None)
    assert any(line.startswith("use DDP: ") for line in lines)
    # The same with a prediction that is known to be far off: what wins by less is no win.
    unsure = {"none": slow["none"].model_copy(update={"check": Check(measured_s=1.0, predicted_s=2.0)})}
    assert not advise(unsure, HOSTS, Link(rate_mbit=10_000), BOTH).use_ddp


def test_the_ring() -> None:
    """2 (N - 1) / N * B / bandwidth + 2 (N - 1) * latency + compute."""
    expected = 2 * 3 / 4 * 1e6 / (100e6 / 8 * TCP_SHARE) + 2 * 3 * 0.002 + 0.1
    assert ddp_s(profile(), 4, Link(rate_mbit=100, delay_ms=2.0)) == pytest.approx(expected)


def test_the_slowest_of_several() -> None:
    """Of two workers with steps of 1 or 3 seconds: 3 in three of four cases."""
    made = profile().model_copy(update={"compute_s": [3.0, 1.0]})
    assert slowest_s(made, 1) == pytest.approx(2.0)
    assert slowest_s(made, 2) == pytest.approx(2.5)


def test_commands_are_ready() -> None:
    found = advise(known(), HOSTS, Link(rate_mbit=100), ["2"], "adam:lr=0.001")
    lines = in_lines(found, HOSTS, ["train.py", "--name", "a b"], "adam:lr=0.001")
    assert "not steps to a quality" in lines[0]
    [run, *_] = [line.strip() for line in lines if line.startswith("   psctl run")]
    setting = found.rated[0].setting
    assert shlex.split(run) == [
        "psctl", "run", "--servers", "2", "--workers", "4", "--consistency", setting.consistency,
        "--compression", setting.compression, "--optimizer", "adam:lr=0.001", "train.py", "--name", "a b",
    ]  # fmt: skip
    assert sum(line.startswith("   psctl controller --host ADDRESS ") for line in lines) == 3


@pytest.mark.parametrize("servers", ["0", "5", "many", ""])
def test_servers_that_make_no_sense(servers: str) -> None:
    with pytest.raises(ConfigError, match="--servers: expected colocated, or 1 to 4"):
        check_servers([servers], HOSTS)


def test_this_machine_reaches_itself() -> None:
    """All that is sent is taken before the time is up."""
    assert 0 < loopback_mbit() < float("inf")
