"""Every benchmark runs in its smallest size, so that none can rot; and the harness refuses what its rules forbid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import Bench, BenchError, main, measure, select, themes


@pytest.mark.parametrize("theme", themes())
def test_benchmarks_of_a_theme_run(theme: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--smoke", "--only", theme]) == 0
    assert f"\n{theme}/" in capsys.readouterr().out


def test_no_benchmark_at_all_is_an_empty_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "FOLDER", tmp_path)
    assert main(["--smoke"]) == 0


def test_json_holds_the_machine_and_every_time(tmp_path: Path) -> None:
    assert main(["--smoke", "--only", "raw/memcpy", "--json", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["mode"] == "smoke" and report["machine"]["numpy"]
    (row,) = report["results"]
    assert row["name"] == "raw/memcpy" and row["bytes_moved"] == 64 * 1024
    assert len(row["seconds"]) == 1 and row["rate"] == row["bytes_moved"] / row["median_s"]


def bench_honest(bench: Bench) -> None:
    with bench.timed(events=bench.size(smoke=2, full=3)):
        pass
    bench.check(1)


def test_full_repeats_and_takes_the_full_size() -> None:
    result = measure("x/honest", bench_honest, full=True)
    assert len(result.seconds) == harness.REPEATS_FULL and result.events == 3 and result.sizes == [3]


def test_answers_that_differ_between_repeats_are_refused() -> None:
    answers: Iterator[int] = count()

    def bench_fickle(bench: Bench) -> None:
        with bench.timed():
            pass
        bench.check(next(answers))

    with pytest.raises(BenchError, match="x/fickle: expected the checksum 00000000 again, got 00000001"):
        measure("x/fickle", bench_fickle, full=True)


def bench_unchecked(bench: Bench) -> None:
    with bench.timed():
        pass


def bench_untimed(bench: Bench) -> None:
    bench.check(1)


def bench_timed_twice(bench: Bench) -> None:
    for _ in range(2):
        with bench.timed():
            pass


@pytest.mark.parametrize("function", [bench_unchecked, bench_untimed, bench_timed_twice])
def test_a_call_times_one_block_and_hands_in_one_checksum(function: harness.Function) -> None:
    with pytest.raises(BenchError, match="expected one timed"):
        measure("x/wrong", function, full=False)


def test_only_takes_theme_function_or_both_and_keeps_the_raw_limit() -> None:
    found = dict.fromkeys(["raw/memcpy", "codec/topk", "codec/onebit", "wire/pack"], bench_honest)
    assert list(select(found, ["codec"])) == ["raw/memcpy", "codec/topk", "codec/onebit"]
    assert list(select(found, ["pack"])) == ["raw/memcpy", "wire/pack"]
    assert list(select(found, ["codec/topk"])) == ["raw/memcpy", "codec/topk"]
    assert select(found, []) == found


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BenchError, match=r"--only: expected a theme or one of raw/memcpy, got 'rwa'"):
        select({"raw/memcpy": bench_honest}, ["rwa"])
