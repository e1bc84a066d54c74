"""Histograms against numpy, merging against the sum of its parts, snapshots through JSON and MessagePack."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from threading import Thread

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.errors import FrameError
from ps.metrics import METRICS, Histogram, Label, Metrics, Snapshot, Span, bucket_of, merge, series, value_of
from ps.types import Array

LABELS: st.SearchStrategy[Label] = st.integers(0, 3) | st.sampled_from(["a", "b"])
DYADIC = st.integers(0, 1 << 20).map(lambda n: n / 1024)  # their sums are exact in any order


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    metrics = Metrics(series_max=3, spans_max=2)
    for _ in range(draw(st.integers(0, 12))):
        match draw(st.sampled_from(["counter", "gauge", "histogram", "span"])):
            case "counter":
                metrics.count("refused_pushes", draw(st.integers(0, 1 << 40)), reason=draw(LABELS))
            case "gauge":
                metrics.gauge("clock", draw(DYADIC), worker=draw(LABELS))
            case "histogram":
                metrics.observe("gate_wait", draw(DYADIC), waited_for=draw(LABELS))
            case "span":
                metrics.span("step", draw(DYADIC), draw(DYADIC), worker=draw(LABELS))
    return metrics.snapshot()


def histogram_of(values: Array | list[float]) -> Histogram:
    metrics = Metrics()
    for value in values:
        metrics.observe("staleness", value)
    return metrics.snapshot().histograms[series("staleness")]


# Histograms


@pytest.mark.parametrize("p", [0, 0.1, 1, 10, 50, 90, 99, 99.9, 100])
@pytest.mark.parametrize("kind", ["exponential", "lognormal", "large integers", "integers and halves"])
def test_percentile_is_within_10_percent_of_numpys(kind: str, p: float) -> None:
    rng = np.random.default_rng(1)
    values_N = {
        "exponential": rng.exponential(0.01, 1009),
        "lognormal": rng.lognormal(0, 4, 1009),
        "large integers": rng.integers(0, 10_000, 1009),
        "integers and halves": rng.integers(0, 200, 1009) / 2,
    }[kind]
    expected = np.percentile(values_N, p, method="inverted_cdf")
    assert histogram_of(values_N).percentile(p) == pytest.approx(expected, rel=0.1, abs=0.0)


@given(st.lists(st.integers(0, 63), min_size=1, max_size=50), st.integers(0, 100))
def test_percentile_of_small_integers_is_exact(values: list[int], p: int) -> None:
    rank = max(1, -(-p * len(values) // 100))
    assert histogram_of([float(value) for value in values]).percentile(p) == sorted(values)[rank - 1]


@given(st.floats(1e-9, 1e18))
def test_a_bucket_stands_for_its_values_within_5_percent(value: float) -> None:
    assert value_of(bucket_of(value)) == pytest.approx(value, rel=0.05, abs=0.0)


@given(st.floats(0, allow_infinity=False))
def test_percentile_stays_between_min_and_max_whatever_the_size(value: float) -> None:
    assert histogram_of([value, value]).percentile(10) == value


def test_buckets_are_bounded_in_number_and_integers_below_64_have_their_own() -> None:
    assert [bucket_of(value) for value in range(64)] == list(range(64))
    assert bucket_of(0.5) >= 64
    assert bucket_of(5e-324) == 64
    assert bucket_of(1e308) == 64 + 652


def test_a_histogram_keeps_n_sum_min_and_max() -> None:
    histogram = histogram_of([0.25, 3.0, 3.0, 100.0])
    assert (histogram.n, histogram.sum, histogram.min, histogram.max) == (4, 106.25, 0.25, 100.0)
    assert dict(histogram.buckets)[3] == 2


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_a_histogram_takes_only_finite_values_from_0(value: float) -> None:
    with pytest.raises(AssertionError, match="finite number >= 0"):
        histogram_of([value])


# Updates


def test_counters_add_and_gauges_keep_the_last_by_label() -> None:
    metrics = Metrics()
    for rank in (0, 1, 0):
        metrics.count("push_bytes", 10 + rank, direction="sent")
        metrics.gauge("clock", 5.0 - rank, worker=rank)
    metrics.count("push_bytes", direction="received")
    metrics.count("applies")
    snapshot = metrics.snapshot()
    assert snapshot.counters == {
        series("push_bytes", direction="sent"): 31,
        series("push_bytes", direction="received"): 1,
        series("applies"): 1,
    }
    assert snapshot.gauges == {series("clock", worker=0): 5.0, series("clock", worker="1"): 4.0}
    assert snapshot.total("push_bytes") == 32
    assert snapshot.total("push_bytes", direction="sent") == 31
    assert snapshot.total("resends") == 0


def test_numpy_scalars_neither_wrap_nor_stay() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.count("applies", np.uint8(200))  # type: ignore[arg-type]
        metrics.observe("staleness", np.int64(7))  # type: ignore[arg-type]
        metrics.gauge("clock", np.float32(0.5), worker=0)  # type: ignore[arg-type]
    plain = metrics.snapshot().to_dict()
    assert plain["counters"] == [["applies", {}, 600]]
    assert msgpack.unpackb(msgpack.packb(plain)) == plain


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda metrics: metrics.count("nonsense"), "one of METRICS, got 'nonsense'"),
        (lambda metrics: metrics.count("staleness"), "staleness: expected to be used as a histogram, got counter"),
        (lambda metrics: metrics.observe("applies", 1.0), "applies: expected to be used as a counter, got histogram"),
        (lambda metrics: metrics.span("clock", 0.0, 1.0), "clock: expected to be used as a gauge, got span"),
        (lambda metrics: metrics.count("push_bytes", color=1), r"push_bytes: expected labels among \('direction',\)"),
        (lambda metrics: metrics.span("step", 0.0, 1.0, color=1), r"step: expected labels among \('worker',\)"),
    ],
)
def test_what_is_not_declared_is_an_assertion(update: Callable[[Metrics], None], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        update(Metrics())


def test_labels_beyond_the_bound_fold_into_other() -> None:
    metrics = Metrics(series_max=2)
    for number in range(1000):
        metrics.count("refused_pushes", reason=f"reason {number}")
    metrics.count("refused_pushes", 5, reason="reason 1")
    metrics.count("push_bytes", direction="sent")  # a bound of its own
    assert metrics.snapshot().counters == {
        series("refused_pushes", reason="reason 0"): 1,
        series("refused_pushes", reason="reason 1"): 6,
        series("refused_pushes", reason="other"): 998,
        series("push_bytes", direction="sent"): 1,
    }


def test_the_ring_of_spans_drops_the_oldest_and_counts_them() -> None:
    metrics = Metrics(spans_max=2)
    for start in range(5):
        metrics.span("step", start, start + 0.5, worker=1)
    snapshot = metrics.snapshot()
    assert snapshot.spans == tuple(Span(s, s + 0.5, "step", (("worker", "1"),)) for s in (3.0, 4.0))
    assert snapshot.spans_dropped == 3


def test_a_snapshot_does_not_change_with_later_updates() -> None:
    metrics = Metrics()
    metrics.observe("staleness", 1)
    metrics.count("applies")
    before, plain = metrics.snapshot(), metrics.snapshot().to_dict()
    metrics.observe("staleness", 1)
    metrics.count("applies")
    metrics.count("resends")
    assert before.to_dict() == plain


def test_no_update_of_any_thread_is_lost_while_another_reads() -> None:
    metrics = Metrics()
    threads, updates = 4, 3000

    def write(rank: int) -> None:
        for number in range(updates):
            metrics.count("refused_pushes", reason=number % 50)
            metrics.observe("gate_wait", number, waited_for=rank)

    writers = [Thread(target=write, args=(rank,)) for rank in range(threads)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for histogram in metrics.snapshot().histograms.values():
            assert histogram.n == sum(count for _, count in histogram.buckets)
            assert histogram.sum == histogram.n * (histogram.n - 1) / 2  # 0, 1, 2, ...: never half an update
    for writer in writers:
        writer.join()
    snapshot = metrics.snapshot()
    assert snapshot.total("refused_pushes") == threads * updates
    assert [histogram.n for histogram in snapshot.histograms.values()] == [updates] * threads


# Snapshots


@given(snapshots())
def test_a_snapshot_survives_json_and_msgpack(snapshot: Snapshot) -> None:
    plain = snapshot.to_dict()
    assert Snapshot.from_dict(json.loads(json.dumps(plain))) == snapshot
    assert Snapshot.from_dict(msgpack.unpackb(msgpack.packb(plain))) == snapshot


@given(snapshots(), snapshots(), snapshots())
def test_merge_is_the_same_in_any_grouping_and_order(a: Snapshot, b: Snapshot, c: Snapshot) -> None:
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])]) == merge([a, b, c]) == merge([c, a, b])
    assert merge([a, Snapshot()]) == merge([a])


@given(st.lists(st.lists(DYADIC, min_size=1), min_size=1, max_size=4))
def test_merged_histograms_equal_one_that_saw_all(parts: list[list[float]]) -> None:
    separate = [Snapshot(histograms={series("staleness"): histogram_of(part)}) for part in parts]
    together = histogram_of([value for part in parts for value in part])
    assert merge(separate).histograms[series("staleness")] == together


@given(st.lists(snapshots(), max_size=4))
def test_merge_adds_counters_keeps_the_largest_gauge_and_all_spans(parts: list[Snapshot]) -> None:
    merged = merge(parts)
    assert merged.counters == dict(sum((Counter(part.counters) for part in parts), Counter())) | {
        key: 0 for key, n in merged.counters.items() if n == 0
    }
    assert merged.gauges == {
        key: max(part.gauges[key] for part in parts if key in part.gauges) for part in parts for key in part.gauges
    }
    assert Counter(merged.spans) == Counter(span for part in parts for span in part.spans)
    assert [span.start for span in merged.spans] == sorted(span.start for span in merged.spans)
    assert merged.spans_dropped == sum(part.spans_dropped for part in parts)


def test_a_gauge_that_is_nan_shows_in_the_merged_view() -> None:
    parts = [Snapshot(gauges={series("clock"): value}) for value in (1.0, math.nan, 2.0)]
    for order in (parts, parts[::-1]):
        assert math.isnan(merge(order).gauges[series("clock")])


@pytest.mark.parametrize(
    "change",
    [
        {"counters": None},
        {"counters": [["applies", {}]]},
        {"counters": [["applies", ["reason"], 1]]},
        {"counters": [[7, {}, 1]]},
        {"counters": [["applies", {}, "many"]]},
        {"counters": [["applies", {}, math.inf]]},
        {"gauges": [["clock", {"name": "twice"}, 1.0]]},
        {"histograms": [["staleness", {}, [1, 2.0, 2.0, 2.0, [[2, 3]]]]]},
        {"histograms": [["staleness", {}, [0, 0.0, 0.0, 0.0, []]]]},
        {"histograms": [["staleness", {}, [1, 2.0, 2.0, 2.0, [[100_000, 1]]]]]},
        {"histograms": [["staleness", {}, [1, 2.0, 3.0, 2.0, [[2, 1]]]]]},
        {"spans": [["step", {}, 1.0]]},
        {"spans_dropped": None},
    ],
    ids=str,
)
def test_a_malformed_snapshot_is_a_frame_error(change: dict[str, object]) -> None:
    with pytest.raises(FrameError, match="metrics: expected a snapshot"):
        Snapshot.from_dict(Snapshot().to_dict() | change)


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert name.isidentifier(), name
        assert metric.unit, name
        assert metric.help.endswith("."), name
