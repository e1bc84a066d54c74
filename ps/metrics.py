"""Every measure of `ps`: counters, gauges, histograms and spans, which live view, reports, exporters and traces read.

A `Metrics` object belongs to one process or peer; nothing here is global and nothing reads a clock: the caller gives
times, virtual or real. A `Snapshot` is what others see of it: plain data that travels as a dict and merges.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Generic, Literal, TypeVar

from ps.errors import FrameError

Kind = Literal["counter", "gauge", "histogram", "span"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a name means. `labels` are those that an update may carry; each may be left out."""

    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()


DIRECTION = ("direction",)  # "sent" or "received"

METRICS: dict[str, Metric] = {
    "push_messages": Metric("counter", "messages", "Messages that carry pushes.", DIRECTION),
    "push_bytes": Metric("counter", "bytes", "Buffers of pushes, as encoded.", DIRECTION),
    "pull_messages": Metric("counter", "messages", "Messages that carry pulled values.", DIRECTION),
    "pull_bytes": Metric("counter", "bytes", "Buffers of pulled values, as encoded.", DIRECTION),
    "header_bytes": Metric("counter", "bytes", "Headers of all messages.", DIRECTION),
    "applies": Metric("counter", "commits", "Commits of one slice, with a step."),
    "empty_commits": Metric("counter", "commits", "Commits of one slice to which nobody contributed: no step."),
    "refused_pushes": Metric("counter", "pushes", "Pushes of one slice whose verdict is Refused.", ("reason",)),
    "nonfinite_pushes": Metric("counter", "pushes", "Pushes dropped whole because a gradient had an inf or nan."),
    "repeated_messages": Metric("counter", "messages", "Messages that had arrived before and were answered again."),
    "rejected_messages": Metric("counter", "messages", "Messages answered with an error: malformed, fenced, stale."),
    "resends": Metric("counter", "messages", "Messages sent again for want of an answer."),
    "staleness": Metric("histogram", "commits", "Version at apply minus the version that a push was computed on."),
    "gate_wait": Metric("histogram", "seconds", "From pull to answer.", ("worker", "waited_for")),
    "compute": Metric("histogram", "seconds", "From the end of a clock to its next gradient, without waits."),
    "loop": Metric("histogram", "seconds", "A clock but the first, from tick to tick, waits included."),
    "wait": Metric("histogram", "seconds", "A call of the training loop that had to wait."),
    "step": Metric("span", "seconds", "One training step, from tick to tick.", ("worker",)),
    "blocked": Metric("span", "seconds", "A call of the training loop that had to wait."),
    "push": Metric("span", "seconds", "A push: its slices are encoded, and handed over part by part."),
    "encode": Metric("span", "seconds", "A slice of a push is gathered and encoded.", ("slice", "bytes")),
    "wire": Metric("span", "seconds", "A message, from handing it over until it has left.", ("to", "bytes")),
    "pull": Metric("span", "seconds", "From asking for values to one message of them.", ("bytes",)),
    "apply": Metric("span", "seconds", "A commit of one slice.", ("shard", "slice", "bytes")),
    "clock": Metric("gauge", "clocks", "Finished clocks.", ("worker",)),
    "nonfinite_log": Metric(
        "gauge", "flag", "1: what the script logged last under this name is inf or nan.", ("metric",)
    ),
    "slices": Metric("gauge", "slices", "Slices that a server steps."),
    "cpu": Metric("gauge", "seconds", "Processor time of the process so far."),
    "lr": Metric("gauge", "rate", "The learning rate at the last pull."),
}

Label = str | int
Labels = tuple[tuple[str, str], ...]  # label and value, by label
Series = tuple[str, Labels]
OTHER = "other"  # the value of every label of what came when a name had all its series

COUNT_MAX = 1 << 63  # of what a peer may claim to have counted
EXACT = 64  # integers below have a bucket each
LOG_BUCKETS = 653  # up to 1e18; the first and the last take what lies beyond
LOG_BUCKET_MIN = 1e-9  # lower end of the first log bucket
LOG_BUCKET_RATIO = 1.1  # upper end / lower end of a log bucket
_LOG_MIN, _LOG_RATIO = math.log(LOG_BUCKET_MIN), math.log(LOG_BUCKET_RATIO)


def series(name: str, **labels: Label) -> Series:
    """The key of one series in a snapshot."""
    return name, tuple(sorted((label, str(value)) for label, value in labels.items()))


def bucket_of(value: float) -> int:
    """0..63: exactly that integer; 64 + k: from 1e-9 x 1.1^k to 1e-9 x 1.1^(k + 1). Takes finite values >= 0."""
    if value < EXACT and value == (exact := int(value)):
        return exact
    k = int((math.log(value) - _LOG_MIN) / _LOG_RATIO)
    return EXACT + min(max(k, 0), LOG_BUCKETS - 1)


def value_of(bucket: int) -> float:
    """What stands for the values of a bucket: at most 5 % from each, where 1e-9 <= value <= 1e18."""
    return float(bucket) if bucket < EXACT else LOG_BUCKET_MIN * LOG_BUCKET_RATIO ** (bucket - EXACT + 0.5)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Values >= 0, one or more; `buckets` are (bucket, values in it), by bucket."""

    n: int
    sum: float
    min: float
    max: float
    buckets: tuple[tuple[int, int], ...]

    def percentile(self, p: float) -> float:
        """The smallest value that at least p % of the values do not exceed (nearest rank; 0 <= p <= 100).

        Error: none where all values are integers below 64, else within 10 % (where 1e-9 <= value <= 1e18).
        """
        assert 0 <= p <= 100, f"p: expected 0 to 100, got {p}"
        rank = max(1, math.ceil(p * self.n / 100))
        if rank == self.n:
            return self.max
        for bucket, count in sorted(self.buckets, key=lambda pair: value_of(pair[0])):
            rank -= count
            if rank <= 0:
                return min(max(value_of(bucket), self.min), self.max)
        raise AssertionError(f"expected {self.n} values in the buckets, got {rank} fewer")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Something that lasted from `start` to `end`, in seconds of its peer's time."""

    start: float
    end: float
    name: str
    labels: Labels


@dataclass(frozen=True)
class Snapshot:
    """The measures of one `Metrics` at one moment, or of several, merged. Nobody writes to it."""

    counters: Mapping[Series, int] = field(default_factory=dict)
    gauges: Mapping[Series, float] = field(default_factory=dict)
    histograms: Mapping[Series, Histogram] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()  # the last ones, in the order of their recording; merged: by start
    spans_dropped: int = 0  # recorded before those in `spans`

    def total(self, name: str, **labels: Label) -> int:
        """Sum of the counters of this name that have these labels."""
        wanted = set(series(name, **labels)[1])
        return sum(n for (other, has), n in self.counters.items() if other == name and wanted.issubset(has))

    def to_dict(self) -> dict[str, Any]:
        """Lists, dicts, strings and numbers only, for MessagePack or JSON."""
        return {
            "counters": [[name, dict(labels), n] for (name, labels), n in self.counters.items()],
            "gauges": [[name, dict(labels), value] for (name, labels), value in self.gauges.items()],
            "histograms": [[name, dict(labels), _row(h)] for (name, labels), h in self.histograms.items()],
            "spans": [[span.name, dict(span.labels), span.start, span.end] for span in self.spans],
            "spans_dropped": self.spans_dropped,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Snapshot:
        """Takes names that only other versions declare, too. Raises: FrameError when `to_dict` cannot give this."""
        try:
            return cls(
                counters={_key(name, labels): _count(n) for name, labels, n in plain["counters"]},
                gauges={_key(name, labels): float(value) for name, labels, value in plain["gauges"]},
                histograms={_key(name, labels): _histogram(row) for name, labels, row in plain["histograms"]},
                spans=tuple(
                    Span(float(start), float(end), *_key(name, labels)) for name, labels, start, end in plain["spans"]
                ),
                spans_dropped=int(plain["spans_dropped"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FrameError(
                f"metrics: expected a snapshot made by to_dict, got one that fails with {error!r}"
            ) from error


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One view of several peers: counters and histograms add up, the largest gauge stays (nan above all).

    The same in any order and grouping, but for the rounding of `Histogram.sum`.
    """
    parts = list(snapshots)
    return Snapshot(
        counters=_merged([part.counters for part in parts], lambda left, right: left + right),
        gauges=_merged([part.gauges for part in parts], _larger),
        histograms=_merged([part.histograms for part in parts], _joined),
        spans=tuple(sorted(span for part in parts for span in part.spans)),
        spans_dropped=sum(part.spans_dropped for part in parts),
    )


class Metrics:
    """What one process or peer measures. Updates and `snapshot` may come from any thread.

    One lock serves all: an update holds it for well under a microsecond, a snapshot for as long as it copies. It may be
    entered again by its own thread, because a finalizer that runs amid an update may count something too.
    Labels are those of `METRICS`. A name has at most `series_max` series; what comes later goes to `OTHER`.
    """

    def __init__(self, *, series_max: int = 256, spans_max: int = 4096) -> None:
        self._lock = RLock()
        self._counters = _Table("counter", _Count, series_max)
        self._gauges = _Table("gauge", _Level, series_max)
        self._histograms = _Table("histogram", _Distribution, series_max)
        self._spans: deque[tuple[float, float, str, dict[str, Label]]] = deque(maxlen=spans_max)
        self._spans_recorded = 0
        self.traces = False  # whether whoever measures is to record spans: the run's option `trace`

    def count(self, name: str, n: int = 1, **labels: Label) -> None:
        with self._lock:
            self._counters.at(name, labels).n += int(n)  # int: a NumPy scalar would wrap, and does not travel

    def gauge(self, name: str, value: float, **labels: Label) -> None:
        with self._lock:
            self._gauges.at(name, labels).value = float(value)

    def observe(self, name: str, value: float, **labels: Label) -> None:
        """Adds a finite value >= 0 to a histogram."""
        with self._lock:
            self._histograms.at(name, labels).add(float(value))

    def span(self, name: str, start: float, end: float, **labels: Label) -> None:
        """Records what has ended; the oldest span goes when there are `spans_max`."""
        _check_declared(name, "span", labels)
        with self._lock:
            self._spans.append((float(start), float(end), name, labels))
            self._spans_recorded += 1

    def snapshot(self) -> Snapshot:
        """All since the start; it resets nothing."""
        with self._lock:
            spans = list(self._spans)
            return Snapshot(
                counters={key: row.n for key, row in self._counters.rows.copy().items()},
                gauges={key: row.value for key, row in self._gauges.rows.copy().items()},
                histograms={key: row.frozen() for key, row in self._histograms.rows.copy().items()},
                spans=tuple(Span(start, end, *series(name, **labels)) for start, end, name, labels in spans),
                spans_dropped=self._spans_recorded - len(spans),
            )


@dataclass(slots=True)
class _Count:
    n: int = 0


@dataclass(slots=True)
class _Level:
    value: float = math.nan


@dataclass(slots=True)
class _Distribution:
    sum: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, value: float) -> None:
        assert 0 <= value < math.inf, f"value: expected a finite number >= 0, got {value}"
        self.sum += value
        if value < self.min:
            self.min = value
        if value > self.max:
            self.max = value
        bucket = bucket_of(value)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def frozen(self) -> Histogram:
        buckets = tuple(sorted(self.buckets.items()))
        return Histogram(sum(count for _, count in buckets), self.sum, self.min, self.max, buckets)


Row = TypeVar("Row", _Count, _Level, _Distribution)


class _Table(Generic[Row]):
    """The series of one kind: found by the labels as they come, made and folded on the slow path."""

    def __init__(self, kind: Kind, make: Callable[[], Row], series_max: int) -> None:
        self.rows: dict[Series, Row] = {}
        self._kind = kind
        self._make: Callable[[], Row] = make
        self._series_max = series_max
        self._series_of: Counter[str] = Counter()  # by name
        self._seen: dict[tuple[object, ...], Row] = {}  # by labels as they came; never what was folded: that is endless

    def at(self, name: str, labels: dict[str, Label]) -> Row:
        as_it_came = (name, *labels.items())
        row = self._seen.get(as_it_came)
        return row if row is not None else self._find(name, labels, as_it_came)

    def _find(self, name: str, labels: dict[str, Label], as_it_came: tuple[object, ...]) -> Row:
        _check_declared(name, self._kind, labels)
        key = series(name, **labels)
        if key not in self.rows:
            if self._series_of[name] >= self._series_max:
                return self.rows.setdefault(series(name, **dict.fromkeys(labels, OTHER)), self._make())
            self._series_of[name] += 1
            self.rows[key] = self._make()
        self._seen[as_it_came] = self.rows[key]
        return self.rows[key]


def _check_declared(name: str, kind: Kind, labels: Mapping[str, Label]) -> None:
    metric = METRICS.get(name)
    assert metric is not None, f"metric: expected one of METRICS, got {name!r}; declare it there"
    assert metric.kind == kind, f"{name}: expected to be used as a {metric.kind}, got {kind}"
    assert labels.keys() <= set(metric.labels), f"{name}: expected labels among {metric.labels}, got {list(labels)}"


T = TypeVar("T")


def _merged(parts: Iterable[Mapping[Series, T]], join: Callable[[T, T], T]) -> dict[Series, T]:
    merged: dict[Series, T] = {}
    for part in parts:
        for key, value in part.items():
            merged[key] = join(merged[key], value) if key in merged else value
    return merged


def _larger(left: float, right: float) -> float:
    return left if math.isnan(left) or left >= right else right


def _joined(left: Histogram, right: Histogram) -> Histogram:
    buckets = Counter(dict(left.buckets))
    buckets.update(dict(right.buckets))
    n, total = left.n + right.n, left.sum + right.sum
    return Histogram(n, total, min(left.min, right.min), max(left.max, right.max), tuple(sorted(buckets.items())))


def _key(name: str, labels: Mapping[str, Label]) -> Series:
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {name!r}")
    return series(name, **labels)


def _count(n: Any) -> int:
    if not 0 <= int(n) < COUNT_MAX:
        raise ValueError(f"count: expected 0 to 2^63 - 1, got {str(n)[:40]}")
    return int(n)


def _row(histogram: Histogram) -> list[Any]:
    buckets = [list(pair) for pair in histogram.buckets]
    return [histogram.n, histogram.sum, histogram.min, histogram.max, buckets]


def _histogram(row: Iterable[Any]) -> Histogram:
    n, total, least, largest, buckets = row
    pairs = tuple((int(bucket), _count(count)) for bucket, count in buckets)
    histogram = Histogram(int(n), float(total), float(least), float(largest), pairs)
    if not all(0 <= bucket < EXACT + LOG_BUCKETS and count > 0 for bucket, count in pairs):
        raise ValueError(f"buckets: expected (0 to {EXACT + LOG_BUCKETS - 1}, above 0) each, got {pairs[:3]} ...")
    if histogram.n < 1 or histogram.n != sum(count for _, count in pairs):
        raise ValueError(f"n: expected the values in all buckets, got {histogram.n}")
    if not 0 <= histogram.min <= histogram.max:
        raise ValueError(f"min, max: expected 0 <= min <= max, got {histogram.min}, {histogram.max}")
    return histogram
