"""Intervals of few pairs: against formulas, and against how often they hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ps.experiments.statistics import Interval, band, judge, paired


def by_seed(values: object) -> dict[int, float]:
    return dict(enumerate(np.asarray(values, np.float64).tolist()))


def interval(diffs: object) -> Interval:
    found = paired(by_seed(diffs), by_seed(np.zeros(len(np.asarray(diffs)))))
    assert found is not None
    return found


def t_mass(t: float, df: int) -> float:
    """The probability of -t to t under Student's density, by Simpson's rule."""
    x = np.linspace(-t, t, 20_001)
    density = (1 + x**2 / df) ** (-(df + 1) / 2) * math.gamma((df + 1) / 2)
    density /= math.gamma(df / 2) * math.sqrt(df * math.pi)
    weights = np.ones(len(x))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float((weights * density).sum() * (x[1] - x[0]) / 3)


def assert_student_s(diff_N: np.ndarray[Any, Any]) -> None:
    n, found = len(diff_N), interval(diff_N)
    assert found.mean == pytest.approx(diff_N.mean()) and found.n == n
    t = (found.high - found.mean) / (diff_N.std(ddof=1) / math.sqrt(n))
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert t_mass(t, n - 1) == pytest.approx(0.95, abs=5e-5)


@pytest.mark.parametrize("n", range(2, 10))
def test_up_to_nine_pairs_the_interval_is_student_s(n: int) -> None:
    assert_student_s(np.random.default_rng(n).normal(2, 1, n))


@pytest.mark.parametrize(
    ("usual", "n", "jitter", "other"),
    [
        (0.1, 10, 0.0, -0.5),
        (0.1, 12, 0.0, 0.0),  # resamples of 0.1 alone have a spread of 1e-17: rounding
        (math.log(11 / 10), 12, 0.0, math.log(13 / 10)),
        (0.1, 30, 1e-6, 4.0),
    ],
)
def test_where_most_differences_are_about_equal_the_interval_is_student_s(
    usual: float, n: int, jitter: float, other: float
) -> None:
    noise_N = jitter * np.random.default_rng(n).normal(size=n - 1)
    assert_student_s(np.array([*(usual + noise_N), other]))


@pytest.mark.parametrize("skewed", [False, True])
def test_the_bootstrap_interval_holds_the_true_mean_as_often_as_it_says(skewed: bool) -> None:
    rng, trials, hits = np.random.default_rng(3), 300, 0
    for _ in range(trials):
        diff_N = rng.exponential(1, 14) if skewed else rng.normal(1, 2, 14)
        found = interval(diff_N)
        hits += found.low <= 1 <= found.high
    assert 0.92 <= hits / trials <= 0.98  # the percentile bootstrap: 0.91 and 0.90


def test_the_same_pairs_give_the_same_interval() -> None:
    diff_N = np.random.default_rng(5).normal(size=12)
    assert interval(diff_N) == interval(diff_N)


def test_pairs_tell_apart_what_groups_do_not_where_seeds_are_alike_in_both() -> None:
    rng = np.random.default_rng(7)
    seed_N = rng.normal(0, 1, 5)  # an easy or hard start, for both arms
    left_N, right_N = seed_N + 0.1 + rng.normal(0, 0.01, 5), seed_N + rng.normal(0, 0.01, 5)
    found = paired(by_seed(left_N), by_seed(right_N))
    assert found is not None and found.low > 0 and found.low < 0.1 < found.high
    apart = 2.306 * math.sqrt((left_N.var(ddof=1) + right_N.var(ddof=1)) / 5)  # two groups, 8 degrees of freedom
    assert left_N.mean() - right_N.mean() - apart < 0


def test_only_seeds_that_both_have_are_pairs() -> None:
    assert paired({1: 5.0, 2: 7.0, 3: 100.0}, {2: 3.0, 1: 4.0, 9: 0.0}) == paired({1: 1.0, 2: 4.0}, {1: 0.0, 2: 0.0})
    assert paired({1: 5.0}, {2: 3.0}) is None


def test_what_is_too_little_has_no_interval() -> None:
    one, same = interval([0.5]), interval([0.25] * 5)
    assert (one.mean, same.mean) == (0.5, 0.25)
    assert all(math.isnan(end) for end in (one.low, one.high, same.low, same.high))
    assert interval([0.25] * 6) == Interval(0.25, 0.25, 0.25, 6)


def test_a_winner_is_named_and_the_others_stand_behind_it_by_distance() -> None:
    rng = np.random.default_rng(11)
    loss = {arm: by_seed(mean + rng.normal(0, 0.01, 4)) for arm, mean in (("c", 0.7), ("a", 0.3), ("b", 0.5))}
    verdict = judge(loss, "min")
    assert verdict is not None and verdict.leader == "a" and verdict.won
    assert list(verdict.leads) == ["b", "c"] == verdict.beaten
    lead = verdict.leads["b"]
    assert lead is not None and lead.low < 0.2 < lead.high and lead.low > 0
    other = judge({arm: {seed: -value for seed, value in values.items()} for arm, values in loss.items()}, "max")
    assert other == verdict


@pytest.mark.parametrize(("arms", "seeds"), [(2, 3), (3, 5), (5, 9)])
def test_chance_makes_a_winner_in_one_of_twenty_experiments_at_most(arms: int, seeds: int) -> None:
    rng, trials = np.random.default_rng(13), 400
    found = [judge({str(arm): by_seed(rng.normal(size=seeds)) for arm in range(arms)}, "max") for _ in range(trials)]
    assert sum(verdict is not None and verdict.won for verdict in found) / trials <= 0.08  # 0.05 and three errors


def test_an_arm_with_values_of_fewer_seeds_does_not_lead() -> None:
    verdict = judge({"often": {1: 5.0, 2: 6.0}, "once": {1: 1.0}, "never": {}}, "min")
    assert verdict is not None and verdict.leader == "often" and not verdict.won
    assert verdict.leads["never"] is None and verdict.beaten == []
    assert judge({"never": {}}, "min") is None


def test_a_band_is_of_steps_that_all_have_begun() -> None:
    curves = [(np.array([1.0, 3.0]), np.array([10.0, 30.0])), (np.array([2.0, 4.0]), np.array([0.0, 40.0]))]
    x_N, low_N, median_N, high_N = band(curves)
    assert x_N.tolist() == [2.0, 3.0, 4.0]
    assert low_N.tolist() == [0.0, 0.0, 30.0]
    assert median_N.tolist() == [5.0, 15.0, 35.0]
    assert high_N.tolist() == [10.0, 30.0, 40.0]


def test_a_band_of_many_points_keeps_its_ends() -> None:
    x = np.arange(5000.0)
    x_N, low_N, _, _ = band([(x, -x)])
    assert len(x_N) == 300 and x_N[0] == 0 and x_N[-1] == 4999 and np.array_equal(low_N, -x_N)
