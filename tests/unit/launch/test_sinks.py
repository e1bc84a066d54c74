"""`--log-to`: what is read back from each system is what was logged; a sink that fails or hangs is its own trouble."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ps.errors import ConfigError
from ps.launch import journal as journals
from ps.launch.journal import Journal
from ps.launch.options import RunOptions
from ps.launch.rules import RUN, Report
from ps.launch.run import run_cluster
from ps.launch.sinks import SINKS, Sink, Started, sinks_of
from ps.launch.sinks.mlflow import METRICS_MAX
from ps.launch.sinks.queued import Call, Queued
from tests.unit.launch.fake import CHECKOUT

BEGAN = 1_700_000_000.0
REPORTS = [
    Report(0.5, 0, 1, "loss", 0.75),
    Report(0.5, 0, 1, "loss", 0.5),  # twice in one clock
    Report(0.75, 1, 3, "loss", 0.25),
    Report(1.0, 0, 2, "loss", 0.125),  # a clock that another worker has passed
    Report(1.0, RUN, 2, "ps/staleness_mean", 1.5),
]
OUTCOME = {"reason": "all workers are done", "exit_code": 0, "seconds": 2.0, "clocks": [2, 3], "restarts": {}}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries start processes, which takes long beside other tests."""
    monkeypatch.setattr(journals, "CLOSE_S", 60.0)


def told(
    sinks: Mapping[str, Sink], folder: Path | None, reports: Iterable[Report] = REPORTS, code: int = 0
) -> list[str]:
    """A whole run through these sinks; the warnings."""
    warnings: list[str] = []
    journal = Journal(sinks, warnings.append)
    journal.start(Started("now-abc", folder, "train.py", ("--fast",), {"workers": 2, "seed": None}, BEGAN))
    journal.submitted("other.py", ["--slow"], "host")
    journal.logged(list(reports))
    journal.end(**{**OUTCOME, "exit_code": code})
    return warnings


class Taker(Sink):
    """Keeps what it is told; `at` is called first, with the name of each call."""

    def __init__(self, at: Callable[[str], None] = lambda _: None) -> None:
        self.at, self.calls = at, list[str]()
        self.reports: list[Report] = []

    def start(self, run: Started) -> None:
        self._note("start")

    def submitted(self, script: str, args: tuple[str, ...], by: str) -> None:
        self._note("submitted")

    def logged(self, reports: Iterable[Report]) -> None:
        self._note("logged")
        self.reports += reports

    def end(self, outcome: Mapping[str, Any]) -> None:
        self._note("end")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.at(call)


# ---- what each system has got ---------------------------------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    assert told(sinks_of("jsonl"), tmp_path) == []
    first, second, *rows, last = (json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines())
    assert first["event"] == "start" and first["config"] == {"workers": 2, "seed": None} and first["args"] == ["--fast"]
    assert second == {"event": "submitted", "script": "other.py", "args": ["--slow"], "by": "host"}
    found = [(row["time"], row["rank"], row["clock"], row["name"], row["value"]) for row in rows]
    assert found == [(t, None if rank == RUN else rank, *rest) for t, rank, *rest in REPORTS]
    assert last == {"event": "end", **OUTCOME}


def test_tensorboard_has_a_run_for_each_worker(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert told(sinks_of("tensorboard"), tmp_path) == []
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {"run", "worker_0", "worker_1"}

    def read(name: str, folder: Path = tmp_path) -> Any:
        return event_accumulator.EventAccumulator(str(folder / "tensorboard" / name)).Reload()

    for rank, name in ((0, "worker_0"), (1, "worker_1"), (RUN, "run")):
        seen = read(name)
        found = [(e.wall_time, e.step, tag, e.value) for tag in seen.Tags()["scalars"] for e in seen.Scalars(tag)]
        assert found == [(BEGAN + t, clock, tag, value) for t, of, clock, tag, value in REPORTS if of == rank]
    (config,), (outcome,) = (read("run").Tensors(tag) for tag in ("config", "outcome"))
    assert json.loads(config.tensor_proto.string_val[0]) == {"workers": 2, "seed": None}
    assert json.loads(outcome.tensor_proto.string_val[0]) == OUTCOME

    live = sinks_of("tensorboard")["tensorboard"]
    live.start(Started("now-abc", tmp_path / "live", "", (), {}, BEGAN))
    live.logged(REPORTS)
    assert [e.value for e in read("worker_1", tmp_path / "live").Scalars("loss")] == [0.25], "who looks on sees it"
    live.end(OUTCOME)


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With a store of files."""
    module = pytest.importorskip("mlflow")
    for name, value in {
        "MLFLOW_TRACKING_URI": f"file:{tmp_path / 'mlruns'}",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return module


def test_mlflow_in_files(tmp_path: Path, mlflow: Any) -> None:
    many = [Report(2.0, 0, clock, "odd#name", float(clock)) for clock in range(METRICS_MAX)]
    assert told(sinks_of("mlflow"), tmp_path, [*REPORTS, *many], code=1) == []
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("ps").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["reason"]) == ("now-abc", "FAILED", OUTCOME["reason"])
    assert run.data.params == {"workers": "2", "seed": "None", "script": "train.py", "args": "['--fast']"}
    for name in ("loss/worker_0", "loss/worker_1", "ps/staleness_mean"):
        rows = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
        plain, _, rank = name.partition("/worker_")
        wanted = [r for r in REPORTS if r.name == plain and r.rank == (int(rank) if rank else RUN)]
        assert sorted(rows) == sorted((r.clock, r.value, round(1000 * (BEGAN + r.seconds))) for r in wanted)
    history = client.get_metric_history(run.info.run_id, "odd_name/worker_0")
    assert sorted(m.value for m in history) == [float(clock) for clock in range(METRICS_MAX)]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a..b/.c", "a..b/_c/worker_{rank}"),
        ("../../loss", "_/_/loss/worker_{rank}"),
        ("..loss", "_loss/worker_{rank}"),
        ("/a//./b/", "_/a/_/_/b/_/worker_{rank}"),
        ("", "_/worker_{rank}"),
        ("p95:ms\n%", "p95_ms__/worker_{rank}"),
        ("größe", "größe/worker_{rank}"),
        ("n" * 300, None),
        ("ö" * 300, None),
        ("long/" * 60 + "..", None),
    ],
)
def test_every_name_is_made_one_that_mlflow_takes(name: str, kept: str | None, tmp_path: Path, mlflow: Any) -> None:
    reports = [Report(0.5, rank, 1, given, float(rank)) for rank in (0, 1) for given in (name, "x" + name)]
    assert told(sinks_of("mlflow"), tmp_path, reports) == []
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("ps").experiment_id])
    assert len(run.data.metrics) == 4, "names stay apart"
    for found, value in run.data.metrics.items():
        assert found.endswith(f"/worker_{value:.0f}")
    if kept is not None:
        assert run.data.metrics.items() >= {kept.format(rank=0): 0.0, kept.format(rank=1): 1.0}.items()


def test_wandb_offline_leaves_a_run_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    before = children()
    assert told(sinks_of("wandb"), tmp_path) == []
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = [pb.Record.FromString(raw) for raw in wandb_records(path.read_bytes())]
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in history] == [
        {name if rank == RUN else f"{name}/worker_{rank}": value, "clock": clock}
        for _, rank, clock, name, value in REPORTS
    ]
    summary = {item.key: json.loads(item.value_json) for r in records for item in r.summary.update}
    assert summary["reason"] == OUTCOME["reason"] and summary["clocks"] == [2, 3]
    config = {item.key: json.loads(item.value_json) for r in records for item in r.run.config.update}
    assert config["workers"] == 2 and config["args"] == ["--fast"]
    assert children() == before


def children() -> set[str]:
    """Processes that this one has started."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def wandb_records(raw: bytes) -> Iterable[bytes]:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB) behind seven bytes."""
    at, whole = 7, b""
    while at + 7 <= len(raw):
        if (left := -at % 32768) and left < 7:  # a header does not fit
            at += left
            continue
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or its last part
            yield whole
            whole = b""


# ---- trouble --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["start", "logged", "end"])
@pytest.mark.parametrize("error", [RuntimeError("no\nluck"), SystemExit(3), KeyError()])
def test_a_sink_that_raises_is_named_once_and_the_others_go_on(call: str, error: BaseException) -> None:
    def at(now: str) -> None:
        if now == call:
            raise error

    bad, good = Taker(at), Taker()
    words = {RuntimeError: "no", SystemExit: "3", KeyError: "KeyError"}[type(error)]
    assert told({"bad": bad, "good": good}, None) == [
        f"--log-to bad: {words}; nothing more goes there, the run goes on"
    ]
    calls = ["start", "submitted", "logged", "end"]
    assert good.calls == calls and good.reports == REPORTS
    assert bad.calls == calls[: calls.index(call) + 1]


def test_a_sink_that_blocks_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "CLOSE_S", 0.0)  # a warning that the good one has not ended either does not count
    go, ended, good_ended = threading.Event(), threading.Event(), threading.Event()

    def at(call: str) -> None:
        go.wait()
        if call == "end":
            ended.set()

    def at_good(call: str) -> None:
        if call == "end":
            good_ended.set()

    bad, good = Taker(at), Taker(at_good)
    try:
        warnings = told({"bad": bad, "good": good}, None)
        assert warnings[0] == "--log-to bad: it has not ended in time; 5 values may be missing there"
        assert good_ended.wait(20), "while the bad one blocks"
        assert good.reports == REPORTS and bad.calls in ([], ["start"])
    finally:
        go.set()
    assert ended.wait(20), "once it goes on, it gets the rest"


def handing_over(report: Report) -> Call:
    return lambda sink: sink.logged([report])


def test_what_does_not_fit_is_left_out_and_counted() -> None:
    go = threading.Event()

    def at(_: str) -> None:
        go.wait()

    sink = Taker(at)
    queue = Queued("slow", sink, values_max=3)
    for report in REPORTS:
        queue.put(handing_over(report), 1)
    queue.put(lambda sink: sink.end(OUTCOME), last=True)
    (late,) = queue.warnings()
    assert late.startswith("--log-to slow: it is behind; ")
    go.set()
    queue.close(time.monotonic() + 20)
    assert queue.warnings() == ["--log-to slow: 2 values were left out"]
    assert sink.reports == REPORTS[:3] and sink.calls[-1] == "end"


def test_a_full_disk_ends_jsonl_only(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").symlink_to("/dev/full")
    good = Taker()
    assert told({**sinks_of("jsonl"), "good": good}, tmp_path) == [
        "--log-to jsonl: [Errno 28] No space left on device; nothing more goes there, the run goes on"
    ]
    assert good.reports == REPORTS


def test_without_a_folder_jsonl_is_silent_and_tensorboard_says_so() -> None:
    (warning,) = told(sinks_of("jsonl,tensorboard"), None)
    assert warning.startswith("--log-to tensorboard: there is no log folder to write to; ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("json", "expected some of jsonl, tensorboard, wandb, mlflow, with commas between them, got 'json'"),
        ("", "expected some of jsonl, tensorboard, wandb, mlflow, with commas between them, got ''"),
        ("jsonl, jsonl", "expected each name once, got 'jsonl' twice"),
    ],
)
def test_names_that_do_not_hold(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^--log-to: {words}$"):
        sinks_of(text)


@pytest.mark.parametrize("name", [name for name, kind in SINKS.items() if kind.package])
def test_a_missing_package_is_one_line_before_anything_starts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, SINKS[name].package, None)
    script = str(CHECKOUT / "examples" / "digits.py")
    assert run_cluster(RunOptions(script=script, log_dir=str(tmp_path / "logs"), log_to=f"jsonl,{name}")) == 2
    assert capsys.readouterr().err == (
        f"psctl run: --log-to: {name} needs the package {SINKS[name].package}, which is not installed; run pip "
        f"install 'paramserver[{name}]'\n"
    )
    assert not (tmp_path / "logs").exists()


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As wandb leaves where it has run."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match="wandb needs the package wandb, which is not installed"):
        sinks_of("wandb")
