"""What may be concluded from a few seeds: intervals of paired differences, and bands of curves. Pure, seeded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]  # x, never falling, and y: both (points,)

BOOTSTRAP_LEAST = 10  # pairs; below, resampling has too few different outcomes and its intervals are too short
SIGNS_LEAST = 6  # pairs; below, no test that assumes nothing of the distribution can reach 5 %
RESAMPLES = 10_000
FLAT = 0.1  # of the spread of the pairs: a resample with less, of values that are about equal, tells nothing of it
FLAT_MOST = 0.001  # of all resamples: with more such the bootstrap has lost a tail
BAND_POINTS = 300
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)  # Student's t, 1 to 8 degrees of freedom


@dataclass(frozen=True)
class Interval:
    """A mean difference with its 95 % confidence interval, from n pairs. NaN at both ends: there is none."""

    mean: float
    low: float
    high: float
    n: int

    def mapped(self, scale: float) -> Interval:
        """Of `scale` times the difference."""
        low, high = sorted((scale * self.low, scale * self.high))
        return Interval(scale * self.mean, low, high, self.n)


def paired(left: Mapping[int, float], right: Mapping[int, float]) -> Interval | None:
    """The mean of left - right over the seeds that both have; None where they share none.

    Up to 9 pairs: Student's t of the differences, which holds if they are normally distributed. From 10 on: the
    bootstrap of the studentised mean, which needs no distribution (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, section 12.5; the plain percentile bootstrap is too short for so few), or Student's t again where
    most differences are about equal, as then many resamples have no spread of their own. One pair has no interval.
    Differences that are equal in every pair (values are often rounded) tell nothing of their spread: from 6 pairs on
    the interval has length 0, as a sign test would reject at 2 / 2^6 = 3 %; below there is none.
    """
    seeds = sorted(left.keys() & right.keys())
    if not seeds:
        return None
    diff_N = np.array([left[seed] - right[seed] for seed in seeds])
    n, mean = len(diff_N), float(diff_N.mean())
    error = 0.0 if n == 1 else float(diff_N.std(ddof=1)) / math.sqrt(n)
    if error <= 1e-12 * abs(mean):  # the same in every pair, but for rounding
        end = mean if n >= SIGNS_LEAST else math.nan
        return Interval(mean, end, end, n)
    ends = _bootstrap_t(diff_N, error) if n >= BOOTSTRAP_LEAST else None
    low, high = (-_t_975(n - 1), _t_975(n - 1)) if ends is None else ends
    return Interval(mean, mean - high * error, mean - low * error, n)


def _bootstrap_t(diff_N: Floats, error: float) -> tuple[float, float] | None:
    """The quantiles 0.025 and 0.975 of (mean of a resample - mean) / (its standard error); None where too many have
    next to none. error: the standard error of the mean."""
    n = len(diff_N)
    drawn_RN = diff_N[np.random.default_rng(0).integers(n, size=(RESAMPLES, n))]
    error_R = drawn_RN.std(axis=1, ddof=1) / math.sqrt(n)
    spread_R = error_R >= FLAT * error
    if spread_R.mean() < 1 - FLAT_MOST:
        return None
    t_R = (drawn_RN.mean(axis=1) - diff_N.mean())[spread_R] / error_R[spread_R]
    low, high = np.quantile(t_R, (0.025, 0.975))
    return float(low), float(high)


def _t_975(df: int) -> float:
    """Student's t. From 9 degrees of freedom on by its expansion around the normal quantile, to three decimals
    (Abramowitz and Stegun, 1964, 26.7.5)."""
    if df <= len(_T_975):
        return _T_975[df - 1]
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / df + second / df**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / df**3


@dataclass(frozen=True)
class Verdict:
    """The arm with the best mean, and its lead over each other arm: positive where it is better."""

    leader: str
    leads: Mapping[str, Interval | None]  # by arm, the nearest first; None: no seed in common

    @property
    def beaten(self) -> list[str]:
        """Those that are worse, at 95 % each."""
        return [arm for arm, lead in self.leads.items() if lead is not None and lead.low > 0]

    @property
    def won(self) -> bool:
        """Better than every other arm. Chance alone makes that so for some arm in at most 5 % of experiments: each of
        the comparisons has to hold (an intersection-union test: Berger, Technometrics 1982), so none needs widening.
        """
        return bool(self.leads) and len(self.beaten) == len(self.leads)


def judge(values: Mapping[str, Mapping[int, float]], best: str) -> Verdict | None:
    """values: by arm and seed, `best` is "max" or "min". None when no arm has any value.

    An arm with values of more seeds goes before one with fewer: what did not get so far is no winner.
    """
    sign = 1.0 if best == "max" else -1.0
    means = {
        arm: (len(by_seed), sign * float(np.mean([*by_seed.values()]))) for arm, by_seed in values.items() if by_seed
    }
    if not means:
        return None
    leader = max(means, key=lambda arm: means[arm])
    leads = {arm: paired(values[leader], values[arm]) for arm in values if arm != leader}
    signed = {arm: None if lead is None else lead.mapped(sign) for arm, lead in leads.items()}
    order = sorted(signed, key=lambda arm: math.inf if (lead := signed[arm]) is None else lead.mean)
    return Verdict(leader, {arm: signed[arm] for arm in order})


def band(curves: Sequence[Curve]) -> tuple[Floats, Floats, Floats, Floats]:
    """Of curves that stay at each value until the next: x and lowest, median and highest y there, each (<= 300,).

    It begins where all have begun; a curve that has ended stays at its last value.
    """
    start = max(x_N[0] for x_N, _ in curves)
    x_N = np.unique(np.concatenate([x_N for x_N, _ in curves]))
    x_N = x_N[x_N >= start]
    x_N = x_N[np.linspace(0, len(x_N) - 1, min(len(x_N), BAND_POINTS)).round().astype(int)]
    y_CN = np.array([y[np.searchsorted(x, x_N, side="right") - 1] for x, y in curves])
    return x_N, y_CN.min(axis=0), np.median(y_CN, axis=0), y_CN.max(axis=0)
