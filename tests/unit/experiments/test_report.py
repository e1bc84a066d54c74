"""`psctl report` on folders made by hand: its numbers against the rows, its words against what was planted."""

from __future__ import annotations

import csv
import math
import re
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from ps.cli.main import main
from ps.experiments import page
from ps.experiments.cells import Cell, Settings, final_cells
from ps.experiments.results import read_results
from ps.experiments.tables import Table, markdown, tuning_table
from ps.metrics import Metrics
from tests.unit.experiments.sweeps import PEERS, Ended, Make, logged, write_cell, write_sweep

TOML = """
name = "e"
script = "train.py"
seeds = [1, 2, 3]
[run]
workers = 2
[grid]
consistency = ["bsp", "ssp:staleness=3", "async"]
[report]
metric = "accuracy"
best = "max"
target = 0.9
"""


def report(folder: Path, toml: str, make: Make, *flags: str) -> Path:
    """Writes the sweep and its report, and gives the folder where that is without flags."""
    write_sweep(folder, toml, make)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(folder / "sweep"), *flags])
    assert ended.value.code == 0
    return folder / "sweep" / "report"


def trained(cell: Cell) -> Ended:
    """ssp gets as far as bsp in half of the time; async stays below the target. Seeds move all arms alike."""
    model = cell.settings["consistency"]
    step_s = {"bsp": 2.0, "ssp:staleness=3": 1.0, "async": 0.8}[str(model)] * (1 + 0.01 * cell.seed)
    top = (0.85 if model == "async" else 0.95) + 0.005 * cell.seed + (0.0007 * cell.seed**2 if model == "bsp" else 0)
    return Ended(
        logged([top * share for share in (0.2, 0.6, 0.9, 1.0, 0.98)], every_s=step_s, mb=1.0), outcome={"peers": PEERS}
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a report; a test of its words needs none."""
    monkeypatch.setattr(page, "pictures", lambda group, results, tag: [])
    monkeypatch.setattr(page, "overviews", lambda group, results: [])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("undrawn")
def test_numbers_are_those_of_the_rows(tmp_path: Path) -> None:
    folder = report(tmp_path, TOML, trained)
    runs: dict[str, list[list[dict[str, Any]]]] = {}
    for path in sorted((tmp_path / "sweep" / "cells").glob("*/points.parquet")):
        points = parquet.read_table(path).to_pylist()
        runs.setdefault(points[0]["arm"], []).append(points)
    found = {row["arm"]: row for row in rows_of(folder / "summary.csv")}
    assert list(found) == ["bsp", "ssp:staleness=3", "async"]
    pages = [(folder / name).read_text() for name in ("report.md", "summary.tex")]
    for arm, cells in runs.items():
        hits = [next((row for row in points if row["value"] >= 0.9), None) for points in cells]
        there = [row for row in hits if row is not None]
        expected = {
            "final": [points[-1]["value"] for points in cells],
            "best": [max(row["value"] for row in points) for points in cells],
            "step_s": [1.0] * 3,  # PEERS, not the rows
            "steps_per_s": [2.0] * 3,
            "moved_gb": [2 * (3 + 5) / 1000] * 3,  # PEERS: more than the rows have
            "seconds_to_target": [row["seconds"] for row in there],
            "mb_to_target": [row["pushed_mb"] + row["pulled_mb"] for row in there],
            "commits_to_target": [row["commits"] for row in there],
        }
        assert found[arm]["reached"] == str(len(there)) == ("0" if arm == "async" else "3")
        for name, values in expected.items():
            if not values:
                assert found[arm][f"{name}_median"] == ""
                continue
            assert float(found[arm][f"{name}_median"]) == pytest.approx(statistics.median(values))
            assert float(found[arm][f"{name}_low"]) == pytest.approx(min(values))
            assert float(found[arm][f"{name}_high"]) == pytest.approx(max(values))
            if name == "steps_per_s":
                continue  # only in the CSV
            lines = [next(line for line in page.splitlines() if line.lstrip("| ").startswith(arm)) for page in pages]
            assert all(f"{statistics.median(values):.4g}" in line for line in lines), (arm, name, lines)
        assert all(("not reached" in line) == (not there) for line in lines)


@pytest.mark.usefixtures("undrawn")
def test_a_run_whose_metric_was_never_finite_has_diverged_and_not_failed(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.gauge("nonfinite_log", 1, metric="accuracy")
    peers = {"worker:0": metrics.snapshot().to_dict()}
    toml = TOML.replace("[1, 2, 3]", "[1]")

    def make(cell: Cell) -> Ended:
        return Ended([], outcome={"peers": peers}) if "async" in cell.arm else trained(cell)

    folder = report(tmp_path, toml, make)
    [row] = [row for row in rows_of(folder / "summary.csv") if row["arm"].startswith("async")]
    assert (row["failed"], row["diverged"], row["final_median"]) == ("0", "1", "")


@pytest.mark.usefixtures("undrawn")
def test_what_was_planted_is_said(tmp_path: Path) -> None:
    text = (report(tmp_path, TOML, trained) / "report.md").read_text()
    assert "Last accuracy: highest for bsp, on average " in text
    won = re.search(
        r"Seconds to accuracy >= 0\.9: ssp:staleness=3 reached it in 3 of 3 runs, as many as any other, .*", text
    )
    assert won is not None
    assert "No significant difference" not in won[0] and "bsp" in won[0]
    assert "async in 0 of 3 runs" in won[0]
    assert "(3 pairs), by Student's t" in text and "fewer than 6 pairs" in text


def ratio_of_two(text: str) -> list[float]:
    found = re.search(r"It won: the other is slow, (\S+) times as much, 95 % interval (\S+) to (\S+?)\.\s", text)
    assert found is not None, text
    return [float(part) for part in found.groups()]


TWO = TOML.replace("[1, 2, 3]", str(list(range(12)))).replace(
    '[grid]\nconsistency = ["bsp", "ssp:staleness=3", "async"]',
    '[[compare]]\nname = "fast"\n[[compare]]\nname = "slow"',
)


@pytest.mark.usefixtures("undrawn")
def test_a_winner_wins_by_the_ratio_that_was_planted(tmp_path: Path) -> None:
    def make(cell: Cell) -> Ended:
        rng = np.random.default_rng([cell.seed, cell.arm == "slow"])
        seconds = (1.5 if cell.arm == "slow" else 1.0) * (1 + 0.5 * cell.seed) * (1 + 0.02 * rng.normal())
        return Ended(logged([0.5, 0.92], every_s=seconds))

    folder = report(tmp_path, TWO, make)
    text = (folder / "report.md").read_text()
    times, low, high = ratio_of_two(text)
    took = {
        (row["arm"], row["seed"]): row["seconds"]
        for path in (tmp_path / "sweep/cells").glob("*/points.parquet")
        for row in parquet.read_table(path).to_pylist()
        if row["value"] >= 0.9
    }
    ratios = [np.log(took["slow", seed] / took["fast", seed]) for seed in range(12)]
    assert times == pytest.approx(float(np.exp(np.mean(ratios))), rel=5e-3)
    assert 1.45 < low < 1.5 < high < 1.55
    assert "bootstrap of the studentised mean" in text


@pytest.mark.usefixtures("undrawn")
def test_where_arms_differ_by_chance_nobody_wins(tmp_path: Path) -> None:
    def make(cell: Cell) -> Ended:
        rng = np.random.default_rng([cell.seed, cell.arm == "slow", 5])
        return Ended(logged([0.5, 0.95 + 0.01 * rng.normal()], every_s=1 + 0.1 * rng.normal()))

    text = (report(tmp_path, TWO, make) / "report.md").read_text()
    assert text.count("No significant difference from ") == 3 and "It won" not in text


@pytest.mark.usefixtures("undrawn")
def test_one_seed_concludes_nothing(tmp_path: Path) -> None:
    text = (report(tmp_path, TOML.replace("[1, 2, 3]", "[1]"), trained) / "report.md").read_text()
    assert "From one seed nothing can be concluded" in text
    assert "It won" not in text and "Better than" not in text and "Too few pairs to say anything of " in text


@pytest.mark.usefixtures("undrawn")
def test_no_arm_reaches_the_target(tmp_path: Path) -> None:
    folder = report(tmp_path, TOML.replace("target = 0.9", "target = 0.999"), trained)
    text = (folder / "report.md").read_text()
    assert "Seconds to accuracy >= 0.999: no arm reached it." in text and "Bytes to accuracy >= 0.999: no arm" in text
    assert {row["reached"] for row in rows_of(folder / "summary.csv")} == {"0"}


@pytest.mark.usefixtures("undrawn")
def test_a_faster_arm_that_does_not_always_get_there_is_not_called_alike(tmp_path: Path) -> None:
    def make(cell: Cell) -> Ended:
        if cell.settings["consistency"] == "async":
            return Ended(logged([0.95 if cell.seed < 3 else 0.5], every_s=1 + 0.01 * cell.seed))
        return Ended(logged([0.95], every_s=5 + 0.1 * cell.seed))

    text = (report(tmp_path, TOML, make) / "report.md").read_text()
    seconds = next(line for line in text.splitlines() if "Seconds to accuracy >= 0.9: " in line)
    found = re.search(
        r"But with the seeds that both have, better is async \((\S+) times as much, 95 % interval", seconds
    )
    assert found is not None
    assert float(found[1]) == pytest.approx(math.sqrt(1.01 / 5.1 * 1.02 / 5.2), rel=5e-3)
    assert "async in 2 of 3 runs" in seconds and "from async" not in seconds


@pytest.mark.parametrize(("told", "step_s"), [(True, 1.0), (False, 2.0)])
@pytest.mark.usefixtures("undrawn")
def test_a_run_that_is_there_in_its_first_clock_leads_as_if_it_took_a_step(
    tmp_path: Path, told: bool, step_s: float
) -> None:
    """A step takes 1 s and 16 MB / 8 by PEERS; without them, 16 s of 8 clocks have passed and no bytes are counted."""

    def make(cell: Cell) -> Ended:
        seconds, mb = ((0.0, 0.0, 0.5)[cell.seed - 1], 0.0) if cell.arm == "fast" else (100.0 + cell.seed, 40.0)
        outcome = {"peers": PEERS if told else {}, "seconds": 16.0, "clocks": [0, 8]}
        return Ended([(seconds, 0, 0, 1.0, mb, mb, "accuracy", 0.95)], outcome=outcome)

    text = (report(tmp_path, TWO.replace(str(list(range(12))), "[1, 2, 3]"), make) / "report.md").read_text()
    assert f"Seconds to accuracy >= 0.9: fewest for fast, {step_s:g} s (geometric mean). It won: " in text
    assert f"slow, {math.prod([101, 102, 103]) ** (1 / 3) / step_s:.3g} times as much" in text
    if told:
        assert "Bytes to accuracy >= 0.9: fewest for fast, 2 MB (geometric mean)." in text


@pytest.mark.usefixtures("undrawn")
def test_pairs_are_counted_where_few_of_many_runs_reach_the_target(tmp_path: Path) -> None:
    def make(cell: Cell) -> Ended:
        seconds = (1.5 if cell.arm == "slow" else 1.0) * (1 + 0.01 * cell.seed)
        return Ended(logged([0.95 if cell.seed < 3 else 0.5 + 0.001 * cell.seed], every_s=seconds))

    text = (report(tmp_path, TWO, make) / "report.md").read_text()
    assert "Seconds to accuracy >= 0.9: fast reached it in 3 of 12 runs, as many as any other, " in text
    assert "(3 to 12 pairs), by the bootstrap" in text and "below 10 pairs by Student's t" in text
    assert "with fewer than 6 pairs" in text


@pytest.mark.usefixtures("undrawn")
def test_runs_of_different_versions_of_the_script_are_told(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOML, trained)
    results = read_results(tmp_path / "sweep")
    assert page.warnings(results) == []
    (tmp_path / "train.py").write_text("edited")
    newer = final_cells(results.experiment, tmp_path, {"bsp": {}})[0]
    write_cell(tmp_path / "sweep", newer, trained(newer))
    told = page.warnings(read_results(tmp_path / "sweep"))
    assert told[1:] == ["Runs of different versions of train.py stand side by side: run the sweep to its end."]


@pytest.mark.usefixtures("undrawn")
def test_lower_is_better_where_the_file_says_so(tmp_path: Path) -> None:
    toml = TOML.replace('best = "max"\ntarget = 0.9', 'best = "min"\ntarget = 0.25').replace('"accuracy"', '"loss"')

    def make(cell: Cell) -> Ended:
        least = {"bsp": 0.2, "async": 0.25}.get(str(cell.settings["consistency"]), 0.4)
        return Ended(logged([2.0, least, least + 0.01 * cell.seed], metric="loss", every_s=1 + 0.1 * cell.seed))

    folder = report(tmp_path, toml, make)
    found = {row["arm"]: row for row in rows_of(folder / "summary.csv")}
    assert [found[arm]["reached"] for arm in ("bsp", "ssp:staleness=3", "async")] == ["3", "0", "3"]
    assert [float(found["bsp"][f"{name}_median"]) for name in ("final", "best")] == pytest.approx([0.22, 0.2])
    assert "Last loss: lowest for bsp" in (folder / "report.md").read_text()


def test_a_failure_of_many_lines_is_one_row() -> None:
    table = Table(
        "t", ("arm", "why"), (("a", "exit code 1: failed:\n  File 'x'\nValueError: no | such\n\n"), ("b", ""))
    )
    assert markdown(table).splitlines()[2:] == ["| a | ValueError: no \\| such |", "| b |  |"]


@pytest.mark.usefixtures("undrawn")
def test_failed_diverged_and_missing_cells_are_said_and_count_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(cell: Cell) -> Ended | None:
        if cell.settings["consistency"] == "async":
            if cell.seed == 1:
                return Ended(logged([0.99]), outcome={"exit_code": 137, "reason": "worker 1 was killed | twice"})
            return Ended(logged([0.5, float("nan")])) if cell.seed == 2 else None
        return trained(cell)

    folder = report(tmp_path, TOML, make)
    said = capsys.readouterr().out
    assert "8 of 9 cells have ended" in said and "Unfinished, 1 cell missing" in said and "1 cell failed" in said
    row = rows_of(folder / "summary.csv")[-1]
    assert (row["runs"], row["failed"], row["diverged"], row["final_median"]) == ("1", "1", "1", "")
    text = (folder / "report.md").read_text()
    assert "1 of 3, 1 failed, 1 diverged" in text and "exit code 137: worker 1 was killed \\| twice" in text


@pytest.mark.usefixtures("undrawn")
def test_arms_are_compared_where_the_machines_are_alike(tmp_path: Path) -> None:
    toml = TOML.replace("[run]", "[run]\ncompute_s = 0.1").replace(
        "[grid]", '[grid]\nstragglers = ["transient:chance=0.05,factor=8", "persistent:factor=4"]'
    )

    def make(cell: Cell) -> Ended:
        ended = trained(cell)
        if str(cell.settings["stragglers"]).startswith("persistent"):  # here async gets there, and nobody else
            top = 0.99 if cell.settings["consistency"] == "async" else 0.7
            ended.rows = logged([top + 0.001 * cell.seed], every_s=3.0)
        return ended

    text = (report(tmp_path, toml, make) / "report.md").read_text()
    first, second = text.split("## Seconds")[0].split("## What came out (virtual time, ")[1:]
    assert first.startswith("transient:chance=0.05,factor=8)") and second.startswith("persistent:factor=4)")
    assert "Last accuracy (transient:chance=0.05,factor=8): highest for transient:chance=0.05,factor=8, bsp" in first
    assert "Last accuracy (persistent:factor=4): highest for persistent:factor=4, async" in second
    assert "persistent" not in first and "transient" not in second
    table = text.split("## Seconds to accuracy >= 0.9, by condition (virtual time)")[1].split("## Summary")[0]
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()]
    assert rows[0] == ["arm", "transient:chance=0.05,factor=8", "persistent:factor=4"]
    fourth = ["bsp", f"{4 * 2.04:.4g} [{4 * 2.02:.4g}, {4 * 2.06:.4g}]", "not reached"]  # the row that gets there
    assert rows[2] == fourth and rows[4] == ["async", "not reached", "3"]


@pytest.mark.usefixtures("undrawn")
def test_conditions_alone_are_one_row(tmp_path: Path) -> None:
    grid = '[run]\ncompute_s = 0.1\nconsistency = "bsp"\n'
    toml = TOML.replace("[run]", grid).replace(
        'consistency = ["bsp", "ssp:staleness=3", "async"]', "rate_mbit = [10, 100]"
    )
    rows = logged([0.5, 0.95])
    text = (report(tmp_path, toml, lambda cell: Ended(rows)) / "report.md").read_text()
    table = text.split("by condition (virtual time)")[1].split("## Summary")[0].strip().splitlines()
    assert table[:3] == ["| arm | rate_mbit=10 | rate_mbit=100 |", "| --- | --- | --- |", "| e | 2 | 2 |"]


@pytest.mark.usefixtures("undrawn")
def test_what_tuning_has_found_stands_beside_what_was_chosen(tmp_path: Path) -> None:
    tune = '[tune]\nmetric = "val"\nbest = "max"\nseeds = [7, 8]\ngrid = {lr = [0.1, 0.3, 1.0]}\n'
    toml = TOML.replace("[run]", '[run]\noptimizer = "sgd:lr={lr}"').replace("[report]", tune + "[report]")
    tops = {"bsp": {0.1: 0.5, 0.3: 0.7, 1.0: 0.6}, "async": {0.1: 0.5, 0.3: 0.6, 1.0: 0.8}}

    def make(cell: Cell) -> Ended:
        if cell.phase == "final":
            return trained(cell)
        top = tops[str(cell.settings["consistency"])][float(cell.settings["lr"])] + 0.02 * (cell.seed - 7)
        return Ended(logged([top - 0.2, top, top - 0.1], metric="val"))

    chosen: dict[str, Settings] = {"bsp": {"lr": 0.3}, "async": {"lr": 1.0}}
    write_sweep(tmp_path, toml.replace('"ssp:staleness=3", ', ""), make, chosen)
    results = read_results(tmp_path / "sweep")
    table = tuning_table(results)
    assert table is not None
    assert table.head == ("arm", "lr=0.1", "lr=0.3", "lr=1")
    assert table.rows == (("bsp", "0.51", "0.71 *", "0.61"), ("async", "0.51", "0.61", "0.81 *"))
    assert table.note.endswith("so a wider one may hold a better setting: async.")


def test_time_axes_stay_apart(tmp_path: Path) -> None:
    def make(cell: Cell) -> Ended:
        ended = trained(cell)
        if cell.settings["consistency"] == "bsp":
            ended.axis, ended.outcome["links"] = "wall", "none"
        return ended

    folder = report(tmp_path, TOML, make)
    text = (folder / "report.md").read_text()
    virtual, wall = text.split("## What came out (wall time)")
    assert "bsp" not in virtual.partition("## What came out (virtual time)")[2]
    assert "Links: virtual." in virtual and "Links: none." in wall
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}-{axis}.pdf" for name in ("curves", "staleness", "time") for axis in ("virtual", "wall")
    }


def test_the_page_stands_alone_and_is_well_formed(tmp_path: Path) -> None:
    toml = TOML.replace('name = "e"', 'name = "e"\ndescription = "<b> & more"').replace(
        "[grid]", "[grid]\nworkers = [2, 4]"
    )
    text = (report(tmp_path, toml, trained) / "report.html").read_text()
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert "http" not in text and "<script" not in text and "&lt;b&gt; &amp; more" in text
    ids = [element.get("id") for element in root.iter() if element.get("id") is not None]
    assert len(ids) == len(set(ids))
    links = [value for element in root.iter() for name, value in element.attrib.items() if name == "href"]
    assert links and all(link[1:] in ids or link.startswith("data:image/png;base64,") for link in links)
    assert len(root.findall(".//figure/svg")) == 2 * 3 + 2  # curves, staleness, time; speed-up, map
    assert {element.tag for element in root.iter()} & {"img", "link", "iframe"} == set()


@pytest.mark.usefixtures("undrawn")
def test_the_latex_table_is_whole_and_escaped(tmp_path: Path) -> None:
    toml = TOML.replace("[grid]\n", '[[compare]]\nname = "a_b & 50 % <|>"\n[grid]\n')
    lines = (report(tmp_path, toml, trained) / "summary.tex").read_text().splitlines()
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 1 + 3 and rows[1].startswith(
        r"a\_b \& 50 \% \textless{}\textbar{}\textgreater{}, bsp & virtual & 3 of 3 & "
    )
    columns = re.search(r"\{tabular\}\{(l+)\}", "\n".join(lines))
    assert columns is not None
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns[1]) - 1}
    for name in ("toprule", "midrule", "bottomrule", "end{tabular}"):
        assert lines.count(f"\\{name}") == 1


@pytest.mark.usefixtures("undrawn")
def test_several_ranks_that_log_are_averaged_and_the_first_to_reach_the_target_counts(tmp_path: Path) -> None:
    rows = [
        (float(at), at % 2, at, float(at), 1.0, 0.0, "accuracy", value) for at, value in enumerate([0.2, 0.4, 0.9, 0.6])
    ]
    folder = report(tmp_path, TOML, lambda cell: Ended(rows))
    row = rows_of(folder / "summary.csv")[0]
    assert float(row["final_median"]) == pytest.approx((0.9 + 0.6) / 2)
    assert float(row["best_median"]) == pytest.approx((0.9 + 0.6) / 2)
    assert float(row["seconds_to_target_median"]) == 2.0
    assert float(row["moved_gb_median"]) == pytest.approx(0.001)  # of the rows: there are no peers


@pytest.mark.usefixtures("undrawn")
def test_what_nobody_has_counted_is_not_said_to_be_nothing(tmp_path: Path) -> None:
    rows = [(1.0, 0, 1, math.nan, math.nan, math.nan, "accuracy", 0.95)]
    folder = report(tmp_path, TOML, lambda cell: Ended(rows))
    assert "Bytes to accuracy >= 0.9: counted for no arm." in (folder / "report.md").read_text()
    row = rows_of(folder / "summary.csv")[0]
    assert (row["reached"], row["mb_to_target_median"], row["commits_to_target_median"]) == ("3", "", "")
    assert row["moved_gb_median"] == "" and float(row["seconds_to_target_median"]) == 1.0


def test_a_line_is_drawn_where_nothing_but_time_is_counted(tmp_path: Path) -> None:
    rows = [(float(at), 0, 1, math.nan, math.nan, math.nan, "accuracy", 0.5) for at in (1, 2)]
    report(tmp_path, TOML.replace("[1, 2, 3]", "[1]"), lambda cell: Ended(rows))
    assert [path.name for path in (tmp_path / "sweep" / "report" / "figures").iterdir()] == ["curves-virtual.pdf"]


@pytest.mark.usefixtures("undrawn")
def test_epochs_have_a_time_where_they_are_logged(tmp_path: Path) -> None:
    rows = [(2.5 * at, rank, at, 1.0, 1.0, 1.0, "epoch", float(at)) for at in (1, 2, 3) for rank in (0, 1)]
    folder = report(tmp_path, TOML, lambda cell: Ended([*logged([0.5]), *rows]))
    assert float(rows_of(folder / "summary.csv")[0]["epoch_s_median"]) == pytest.approx(2.5)


def test_out_names_another_folder_where_figures_of_a_report_before_go_and_no_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    mine = ["fig1.pdf", "time-plan.pdf", "curves-virtual-final.pdf"]
    for name in (*mine, "map-wall.pdf", "curves-emulated-2-part3.pdf", "speedup-virtual.pdf"):
        (out / "figures" / name).write_bytes(b"")
    beside = report(tmp_path, TOML.replace("[1, 2, 3]", "[1]"), trained, "--out", str(out))
    assert not beside.exists()
    assert sorted(path.name for path in out.iterdir()) == [
        "figures", "report.html", "report.md", "summary.csv", "summary.tex",
    ]  # fmt: skip
    ours = ["curves-virtual.pdf", "staleness-virtual.pdf", "time-virtual.pdf"]
    assert sorted(path.name for path in (out / "figures").iterdir()) == sorted(ours + mine)


def test_a_folder_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"psctl report: expected the folder of a sweep, with experiment.toml in it, got '{tmp_path}'\n"
    )
