"""Spans of a run as a trace that chrome://tracing and Perfetto open, and latencies by size of message."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ps.errors import ConfigError, FrameError
from ps.experiments.tables import Table
from ps.launch.run import PEERS
from ps.metrics import Snapshot, Span

FILES = ("outcome.json", PEERS)  # of a cell; of `psctl run`
LOOP = ("step", "blocked", "push", "encode")  # one after the other or one in the other: one row
SIZES = ((4 << 10, "under 4 KiB"), (64 << 10, "under 64 KiB"), (1 << 20, "under 1 MiB"), (None, "1 MiB or more"))
LATENCIES = (1e-4, 1e-3, 1e-2, 1e-1)  # seconds: ends of the classes of the histograms


def read_peers(folder: Path) -> dict[str, Snapshot]:
    """What each worker and server of a run or a cell has measured. Raises: ConfigError naming the file."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"{folder}: expected {' or '.join(FILES)} in it: the folder of a cell, or of a traced run")
    try:
        peers = {peer: Snapshot.from_dict(plain) for peer, plain in json.loads(path.read_text())["peers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FrameError) as error:
        raise ConfigError(f"{path}: expected what peers have measured, got a file that fails with {error!r}") from None
    if not any(snapshot.spans for snapshot in peers.values()):
        raise ConfigError(f"{path}: expected spans, got none; run it again with trace = true (psctl run --trace true)")
    return peers


def chrome_trace(peers: Mapping[str, Snapshot]) -> dict[str, Any]:
    """The JSON object format of Chrome's trace events: a process for each peer, a row for each thing that it does and,
    where several of one kind go on at once, for each of these. Microseconds from the first span of all."""
    origin = min(span.start for snapshot in peers.values() for span in snapshot.spans)
    events: list[dict[str, Any]] = []
    for pid, (peer, snapshot) in enumerate(sorted(peers.items())):
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": peer}})
        rows = _rows(snapshot.spans)
        for tid, (row, spans) in enumerate(rows.items()):
            events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": row}})
            for span in spans:
                at = {"ts": (span.start - origin) * 1e6, "dur": (span.end - span.start) * 1e6}
                events.append({"ph": "X", "name": span.name, "pid": pid, "tid": tid, **at, "args": dict(span.labels)})
    dropped = {peer: snapshot.spans_dropped for peer, snapshot in peers.items() if snapshot.spans_dropped}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"spans_dropped": dropped}}


def _rows(spans: Iterable[Span]) -> dict[str, list[Span]]:
    """By row, so that no two overlap in one unless one is within the other."""
    found: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        name, number = ("loop" if span.name in LOOP else span.name), 1
        while name != "loop" and (row := found[_row(name, number)]) and row[-1].end > span.start:
            number += 1
        found[_row(name, number)].append(span)
    return dict(found)


def _row(name: str, number: int) -> str:
    return name if number == 1 else f"{name} {number}"


def latency_table(peers: Mapping[str, Snapshot]) -> Table:
    """Of what carries bytes, by what it is and how large: how often, how long, and a histogram."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for snapshot in peers.values():
        for span in snapshot.spans:
            if (nbytes := dict(span.labels).get("bytes")) is not None:
                size = next(n for n, (end, _) in enumerate(SIZES) if end is None or int(nbytes) < end)
                found[span.name, size].append(span.end - span.start)
    rows = []
    for (name, size), values in sorted(found.items()):
        value_N = np.array(values)
        counts = np.bincount(np.searchsorted(LATENCIES, value_N, side="right"), minlength=len(LATENCIES) + 1)
        figures = (f"{1e3 * figure:.3g}" for figure in (*np.percentile(value_N, (50, 95)), value_N.max()))
        rows.append((name, SIZES[size][1], str(len(values)), *figures, *map(str, counts)))
    classes = [f"< {1e3 * end:g} ms" for end in LATENCIES] + ["more"]
    return Table("Latencies", ("what", "size", "n", "median ms", "95 % ms", "longest ms", *classes), tuple(rows))
