"""`psctl trace`: which spans a traced run keeps, and what becomes of them."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import ps
from ps.cli.main import main
from ps.experiments.trace import chrome_trace, latency_table
from ps.metrics import Metrics, Snapshot

CLOCKS, COMPUTE_S = 5, 0.25
SLICES = {"a": np.zeros(2048, np.float32), "b": np.zeros(4096, np.float32)}  # each a slice of its own


def train(client: ps.Client) -> None:
    client.register(SLICES)
    for _ in range(CLOCKS):
        values = client.pull()
        client.spend(COMPUTE_S)
        client.push({name: np.ones_like(value) for name, value in values.items()})
        client.tick()


def measured(trace: bool) -> dict[str, Snapshot]:
    with ps.LocalCluster(servers=2, workers=2, optimizer="sgd:lr=0.1", seed=3, trace=trace) as cluster:
        cluster.run(train)
        return dict(cluster.metrics())


def test_a_run_keeps_spans_only_where_it_is_traced() -> None:
    plain, traced = measured(trace=False), measured(trace=True)
    assert not any(snapshot.spans for snapshot in plain.values())
    for peer, snapshot in traced.items():
        names = Counter(span.name for span in snapshot.spans)
        if peer.startswith("server:"):
            assert names == {"apply": snapshot.total("applies")} == {"apply": CLOCKS}
            continue
        assert (names["step"], names["push"], names["encode"]) == (CLOCKS, CLOCKS, CLOCKS * len(SLICES))
        assert names["pull"] == snapshot.total("pull_messages", direction="received")
        sent = sum(int(dict(span.labels)["bytes"]) for span in snapshot.spans if span.name == "wire")
        initial = sum(value.nbytes for value in SLICES.values()) if peer == "worker:0" else 0
        assert sent == snapshot.total("push_bytes", direction="sent") + initial
        blocked = [span.end - span.start for span in snapshot.spans if span.name == "blocked"]
        assert sum(blocked) == pytest.approx(
            sum(histogram.sum for (name, _), histogram in snapshot.histograms.items() if name == "wait"), abs=0.1
        )
        steps = [span for span in snapshot.spans if span.name == "step"]
        assert all(span.end - span.start >= COMPUTE_S for span in steps)
        assert all(left.end <= right.start for left, right in pairwise(steps))


def test_the_trace_has_a_process_per_peer_and_overlapping_spans_in_rows_of_their_own() -> None:
    worker, server = Metrics(), Metrics()
    worker.span("push", 10.5, 10.75)
    worker.span("step", 10.0, 11.0)
    worker.span("wire", 10.5, 10.8, to="server:0", bytes=8)
    worker.span("wire", 10.6, 10.7, to="server:1", bytes=8)
    worker.span("wire", 10.9, 11.0, to="server:1", bytes=8)
    server.span("apply", 10.25, 10.5, slice=3, bytes=64)
    made = chrome_trace({"worker:0": worker.snapshot(), "server:0": server.snapshot()})
    events = made["traceEvents"]
    assert {event["args"]["name"]: event["pid"] for event in events if event["name"] == "process_name"} == {
        "server:0": 0,
        "worker:0": 1,
    }
    rows = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    found = [
        (rows[event["pid"], event["tid"]], event["name"], event["ts"], event["dur"], event["args"])
        for event in events
        if event["ph"] == "X"
    ]
    assert [(row, name) for row, name, *_ in found] == [
        ("apply", "apply"), ("loop", "step"), ("loop", "push"), ("wire", "wire"), ("wire", "wire"), ("wire 2", "wire"),
    ]  # fmt: skip
    assert found[0][2:] == (250_000, 250_000, {"slice": "3", "bytes": "64"})  # quarters of seconds are exact
    assert [at for _, _, at, *_ in found[1:]] == pytest.approx([0, 500_000, 500_000, 900_000, 600_000])
    assert found[1][3] == pytest.approx(1e6)


def test_latencies_are_counted_by_size_of_message() -> None:
    metrics = Metrics()
    for seconds in (0.00005, 0.0005, 0.002):
        metrics.span("wire", 1.0, 1.0 + seconds, to="server:0", bytes=100)
    metrics.span("wire", 1.0, 3.0, to="server:0", bytes=1 << 20)
    metrics.span("apply", 1.0, 1.5, slice=0, bytes=(64 << 10) - 1)
    metrics.span("step", 1.0, 9.0)
    assert latency_table({"worker:0": metrics.snapshot()}).rows == (
        ("apply", "under 64 KiB", "1", "500", "500", "500", "0", "0", "0", "0", "1"),
        ("wire", "under 4 KiB", "3", "0.5", "1.85", "2", "1", "1", "1", "0", "0"),
        ("wire", "1 MiB or more", "1", "2e+03", "2e+03", "2e+03", "0", "0", "0", "0", "1"),
    )


def psctl(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    return int(ended.value.code or 0)


def test_a_cell_becomes_a_file_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peers = {peer: snapshot.to_dict() for peer, snapshot in measured(trace=True).items()}
    (tmp_path / "outcome.json").write_text(json.dumps({"exit_code": 0, "peers": peers}))
    out = tmp_path / "t.json"
    assert psctl("trace", str(tmp_path), "-o", str(out)) == 0
    made = json.loads(out.read_text())
    assert Counter(event["name"] for event in made["traceEvents"])["step"] == 2 * CLOCKS
    assert made["otherData"] == {"spans_dropped": {}}
    assert "| encode | under 64 KiB | 20 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "expected outcome.json or peers.json in it: the folder of a cell, or of a traced run"),
        ('{"peers": {"worker:0": 3}}', "expected what peers have measured, got a file that fails with "),
        ("{", "expected what peers have measured, got a file that fails with "),
        ('{"peers": {}}', "expected spans, got none; run it again with trace = true (psctl run --trace true)"),
    ],
)
def test_what_cannot_be_traced_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "peers.json").write_text(text)
    assert psctl("trace", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"psctl trace: {tmp_path}") and said in error and error.count("\n") == 1
