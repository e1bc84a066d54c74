"""Experiment files and the cells that they mean."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ps.errors import ConfigError
from ps.experiments.cells import (
    Cell,
    Settings,
    arms,
    check_cells,
    count_cells,
    final_cells,
    is_of,
    matching,
    tuned_by,
    tuning_cells,
)
from ps.experiments.files import read_experiment, schema

HEAD = """
name = "e"
script = "train.py"
args = ["--width", "{width}"]
seeds = [1, 2, 3]
"""
RUN = """
[run]
workers = 2
compute_s = 0.1
optimizer = "sgd:lr={lr}"
"""
GRID = """
[grid]
consistency = ["bsp", "async"]
width = [8, 16]
lr = [0.5]
"""
MODELS = ("bsp", "async")
REPORT = """
[report]
metric = "accuracy"
best = "max"
"""
TUNE = """
[tune]
metric = "val"
best = "max"
seeds = [7]
grid = {rate = [1, 2, 3]}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "train.py").write_text("")
    path = folder / "e.toml"
    path.write_text(text)
    return path


def cells(folder: Path, text: str) -> list[Cell]:
    experiment = read_experiment(write(folder, text))
    check_cells(experiment, folder)
    return final_cells(experiment, folder, {name: {} for name in arms(experiment)})


def test_a_grid_is_every_combination_with_every_seed(tmp_path: Path) -> None:
    found = cells(tmp_path, HEAD + RUN + GRID + REPORT)
    assert [(cell.arm, cell.seed) for cell in found] == [
        (f"{model}, width={width}", seed) for seed in (1, 2, 3) for model in ("bsp", "async") for width in (8, 16)
    ]
    last = found[-1]
    assert last.args == ["--width", "16"]
    assert last.options == {
        "workers": 2,
        "compute_s": 0.1,
        "optimizer": "sgd:lr=0.5",
        "consistency": "async",
        "seed": 3,
    }
    assert last.script == str(tmp_path / "train.py")
    assert len({cell.id for cell in found}) == 12
    assert [cell.id for cell in found] == [cell.id for cell in cells(tmp_path, HEAD + RUN + GRID + REPORT)]


def test_compared_arms_are_multiplied_by_the_grid_and_bring_their_own(tmp_path: Path) -> None:
    text = HEAD + RUN + '[grid]\nwidth = [8]\n[[compare]]\nname = "slow"\nlr = 0.1\n[[compare]]\nname = "ada"\n'
    text += 'optimizer = "adagrad:lr={lr}"\nlr = 0.3\nargs = []\nwidth2 = 1\n' + REPORT
    with pytest.raises(ConfigError, match=r"^ada, .*width"):
        cells(tmp_path, text.replace("[8]", "[8, 9]"))
    text = text.replace("args = []\nwidth2 = 1\n", "")
    assert [(cell.arm, cell.options["optimizer"]) for cell in cells(tmp_path, text) if cell.seed == 1] == [
        ("slow", "sgd:lr=0.1"),
        ("ada", "adagrad:lr=0.3"),
    ]


def test_tuning_gives_every_arm_the_same_grid_and_seeds(tmp_path: Path) -> None:
    text = (
        HEAD.replace("width}", "rate}") + RUN + '[grid]\nlr = [0.1]\nconsistency = ["bsp", "async"]\n' + REPORT + TUNE
    )
    experiment = read_experiment(write(tmp_path, text))
    tuning = tuning_cells(experiment, tmp_path)
    assert [(cell.arm, cell.settings["rate"], cell.seed) for cell in tuning] == [
        (arm, rate, 7) for arm in arms(experiment) for rate in (1, 2, 3)
    ]
    assert count_cells(experiment) == 6 + 6
    check_cells(experiment, tmp_path)
    chosen: dict[str, Settings] = {"bsp": {"rate": 3}, "async": {"rate": 1}}
    final = final_cells(experiment, tmp_path, chosen)
    assert [(cell.arm, cell.args[1], cell.seed) for cell in final] == [
        (arm, rate, seed) for seed in (1, 2, 3) for arm, rate in (("bsp", "3"), ("async", "1"))
    ]


def test_arms_that_differ_in_conditions_alone_are_tuned_once(tmp_path: Path) -> None:
    grid = '[grid]\nlr = [0.1]\nconsistency = ["bsp", "async"]\nrate_mbit = [10, 100]\n'
    text = HEAD.replace("width}", "rate}") + RUN + grid + REPORT + TUNE + "at = {rate_mbit = 100}\n"
    experiment = read_experiment(write(tmp_path, text))
    slow, fast = [f"{model}, rate_mbit=10" for model in MODELS], [f"{model}, rate_mbit=100" for model in MODELS]
    assert {cell.arm for cell in tuning_cells(experiment, tmp_path)} == set(fast)
    assert {cell.arm for cell in tuning_cells(experiment, tmp_path, slow[:1])} == {fast[0]}
    assert tuned_by(experiment) == dict(zip(slow + fast, fast + fast, strict=True))
    assert (count_cells(experiment), count_cells(experiment, slow[:1])) == (6 + 12, 3 + 3)
    assert is_of(tuning_cells(experiment, tmp_path)[0], experiment)
    everywhere = read_experiment(write(tmp_path, text.replace("at = {rate_mbit = 100}\n", "")))
    assert [is_of(cell, experiment) for cell in tuning_cells(everywhere, tmp_path)] == 2 * (3 * [False] + 3 * [True])
    with pytest.raises(ConfigError, match=r"tune.at.rate_mbit: expected a value of grid.rate_mbit \(10, 100\), got 50"):
        cells(tmp_path, text.replace("at = {rate_mbit = 100}", "at = {rate_mbit = 50}"))
    same = read_experiment(write(tmp_path, text.replace("at = {rate_mbit = 100}", "at = {rate_mbit = 100.0}")))
    assert tuned_by(same) == tuned_by(experiment)


def test_plug_ins_beside_the_script_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "swept_plug.py").write_text("from ps.optim.sgd import Sgd as Mine\n")
    found = cells(tmp_path, HEAD + RUN.replace("sgd:", "swept_plug:Mine:") + GRID + REPORT)
    assert {cell.config.optimizer for cell in found} == {"swept_plug:Mine:lr=0.5"}


def test_the_name_of_an_arm_has_all_digits_of_a_number(tmp_path: Path) -> None:
    found = cells(tmp_path, HEAD.replace("{width}", "{lr}") + RUN + "[grid]\nlr = [1048575, 1048576]\n" + REPORT)
    assert {cell.arm for cell in found} == {"lr=1048575", "lr=1048576"}


def test_arms_are_chosen_by_a_pattern_of_their_names(tmp_path: Path) -> None:
    experiment = read_experiment(write(tmp_path, HEAD + RUN + GRID + REPORT))
    assert matching(experiment, "async*") == ["async, width=8", "async, width=16"]
    assert matching(experiment, "*") == list(arms(experiment))
    with pytest.raises(ConfigError, match=r"^--only: .*bsp, width=8; .*, got 'onebit'$"):
        matching(experiment, "onebit")


def test_hosts_are_one_per_worker_then_one_per_server(tmp_path: Path) -> None:
    text = HEAD + RUN + GRID + REPORT
    apart = cells(tmp_path, text.replace("workers = 2", "workers = 2\nservers = 2"))[0]
    assert apart.hosts == {"worker:0": "h1", "worker:1": "h2", "server:0": "h3", "server:1": "h4"}
    beside = cells(tmp_path, text.replace("workers = 2", 'workers = 2\nservers = "colocated"'))[0]
    assert beside.hosts == {"worker:0": "h1", "worker:1": "h2", "server:0": "h1", "server:1": "h2"}


def test_a_cell_reads_back_as_it_was_written(tmp_path: Path) -> None:
    text = (
        HEAD
        + RUN
        + GRID
        + '[links]\nrate_mbit = 100\nhosts.h2 = {delay_ms = 3}\n[[faults]]\nclock = 3\nkill = "worker:1"\n'
    )
    cell = cells(tmp_path, text + REPORT)[0]
    assert Cell.model_validate_json(cell.model_dump_json()) == cell
    assert cell.links.of("h2").delay_ms == 3
    assert cell.links.of("h1").rate_mbit == 100


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds", "sedes", "sedes: expected seeds, or another of args, compare, "),
        ("workers = 2", "worker = 2", "run.worker: expected workers, or another of "),
        ("workers = 2", "workers = 0", "bsp, width=8: workers: "),
        ("workers = 2", "seed = 2", "run.seed: it is each of `seeds`"),
        ("{width}", "{widht}", r"bsp, width=8: args: expected one of the settings .*width.*, got \{widht\}"),
        ("width = [8, 16]", "width = [8, 16]\nhight = [1]", "bsp, width=8: hight: expected .* changes nothing"),
        ('"bsp", "async"', '"bsp", "spp"', "spp, width=8: consistency: expected one of async, "),
        ("[8, 16]", "[]", "grid.width: "),
        ("train.py", "trian.py", "bsp, width=8: script: expected a Python file"),
        ("compute_s = 0.1", 'stragglers = "persistent"', "stragglers: expected compute_s beside them in virtual time"),
        ("compute_s = 0.1", 'stragglers = "pareto"', "stragglers: expected compute_s beside pareto, whose steps may "),
        ("[run]", '[[faults]]\nclock = 1\nkill = "worker:5"\n[run]', "faults: expected one of worker:0, "),
        ("[run]", "[links]\nhosts.h9 = {rate_mbit = 1}\n[run]", "links.hosts: expected h1 to h3, got 'h9'"),
        ("[run]", "[links]\nrate_mbit = 0\n[run]", "links.rate_mbit: expected greater than 0, got 0"),
        ("width = [8, 16]", "width = [8]\nrate_mbit = [0]", "bsp: rate_mbit: expected greater than 0, got 0"),
        ("[run]", "[links]\nrate = 1\n[run]", "links.rate: expected rate_mbit, or another of "),
        ("[run]", '[[faults]]\nclock = 1\ncut = "worker:0"\n[run]', "expected seconds with cut"),
        ("[run]", 'stop_when = "accuracy"\n[run]', "--stop-when: expected NAME>=NUMBER"),
        ("width = [8, 16]", "width = [8]\nseed = [7, 8]", "grid: seed: it is each of `seeds`"),
        ("[run]", '[[compare]]\nname = "x"\nseed = 7\n[run]', "compare: x: seed: it is each of `seeds`"),
        (
            "[run]",
            '[tune]\nmetric = "val"\nbest = "max"\ngrid = {seed = [9]}\n[run]',
            "tune.grid: seed: it is each of `seeds`",
        ),
        ("[run]", '[[compare]]\nname = "x"\nlr = 1.0\n[run]', "x: lr: expected a setting that no grid varies"),
        ('name = "e"', 'name = "e', ":2:"),
        ("seeds = [1, 2, 3]", "seeds = [1, 1]", "seeds: expected each value once, got 1 twice"),
        ("seeds = [1, 2, 3]", f"seeds = [{1 << 63}]", "seeds.*: expected less than 9223372036854775808"),
        ('name = "e"', f'name = "{"e" * 101}"', "name: string should have at most 100 characters"),
        ("[8, 16]", "[8, 8]", "grid.width: expected each value once, got 8 twice"),
        ("[run]", '[tune]\nmetric = "val"\nbest = "max"\nseeds = [3]\ngrid = {r = [1]}\n[run]', "tune.seeds: .* got 3"),
        (
            "[run]",
            '[tune]\nmetric = "accuracy"\nbest = "max"\ngrid = {r = [1]}\n[run]',
            "tune.metric: expected a valid",
        ),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = HEAD + RUN + GRID + REPORT
    assert old in text
    with pytest.raises(ConfigError, match=words):
        cells(tmp_path, text.replace(old, new, 1))


def test_the_schema_names_every_table() -> None:
    text = json.dumps(schema())
    for name in ("stop_when", "grid", "compare", "tune", "links", "rate_mbit", "faults", "target"):
        assert f'"{name}"' in text


def test_a_host_of_its_own_keeps_what_it_does_not_change(tmp_path: Path) -> None:
    links = "[links]\nrate_mbit = 100\ndelay_ms = 2\nhosts.h2 = {rate_mbit = 10}\n"
    text = HEAD + RUN + GRID.replace("lr =", "delay_ms = [1.0, 5.0]\nlr =") + links + REPORT
    found = {cell.links.of("h2").delay_ms for cell in cells(tmp_path, text)}
    assert found == {1.0, 5.0}
    assert {cell.links.of("h2").rate_mbit for cell in cells(tmp_path, text)} == {10}


def test_links_of_processes(tmp_path: Path) -> None:
    """Cells of ours have them, whether they tune or not; those of ranks cannot, and tune without."""
    ranks = '[[compare]]\nname = "ours"\n[[compare]]\nname = "theirs"\nlaunch = "ranks"\n'
    links = "[links]\nrate_mbit = 100\n"
    ours = HEAD.replace("width}", "rate}") + 'world = "processes"\n' + RUN.replace("{lr}", "0.5")
    ours += "[grid]\nworkers = [2, 3]\n"
    experiment = read_experiment(write(tmp_path, ours + links + REPORT + TUNE))
    assert {cell.links.rate_mbit for cell in tuning_cells(experiment, tmp_path)} == {100}
    both = ours + links + ranks + REPORT + TUNE
    with pytest.raises(ConfigError, match=r"^theirs, workers=2: links: expected world = netlab for launch = ranks, "):
        cells(tmp_path, both)
    elsewhere = both.replace('world = "processes"', 'world = "netlab"') + 'world = "virtual"\n'
    experiment = read_experiment(write(tmp_path, elsewhere))
    found = {(cell.arm, cell.world, cell.links.rate_mbit) for cell in tuning_cells(experiment, tmp_path)}
    assert found == {(f"ours, workers={size}", "virtual", 100) for size in (2, 3)} | {
        (f"theirs, workers={size}", "processes", None) for size in (2, 3)
    }


def test_faults_cannot_reach_ranks(tmp_path: Path) -> None:
    ranks = '[[compare]]\nname = "theirs"\nlaunch = "ranks"\n[[faults]]\nclock = 1\nkill = "worker:1"\n'
    grid = "[grid]\nwidth = [8, 16]\n"
    with pytest.raises(ConfigError, match=r"^theirs, .*: faults: expected none beside launch = ranks, "):
        cells(tmp_path, HEAD + 'world = "processes"\n' + RUN.replace("{lr}", "0.5") + grid + ranks + REPORT)


RANKS = '[[compare]]\nname = "theirs"\nlaunch = "ranks"\n'


@pytest.mark.parametrize(
    ("grid", "name"), [('consistency = ["bsp", "async"]', "consistency"), ("lr = [0.1, 0.2]", "lr"), ("x = [1]", "x")]
)
def test_a_setting_that_ranks_do_not_hear_of_is_refused(tmp_path: Path, grid: str, name: str) -> None:
    run = RUN if name == "lr" else RUN.replace("{lr}", "0.5")
    text = HEAD + 'world = "processes"\n' + run + f"[grid]\nwidth = [8]\n{grid}\n" + RANKS + REPORT
    with pytest.raises(ConfigError, match=rf"^theirs.*: {name}: expected workers, .* changes nothing for them"):
        cells(tmp_path, text)


def test_settings_of_ranks(tmp_path: Path) -> None:
    """Their number, their links, what their args name, and the stop rules: with and without tuning for all of these."""
    grid = '[grid]\nworkers = [2, 3]\nrate_mbit = [10, 100]\nstragglers = ["none", "persistent"]\nlimit = [9]\n'
    head = HEAD.replace('"{width}"', '"{stragglers}", "{rate}"') + 'world = "netlab"\nstop_after = "{limit}s"\n'
    text = head + RUN.replace("{lr}", "{rate}") + grid + RANKS + REPORT + TUNE
    text += 'at = {rate_mbit = 100, stragglers = "none"}\n'
    experiment = read_experiment(write(tmp_path, text))
    check_cells(experiment, tmp_path)
    found = tuning_cells(experiment, tmp_path)
    assert {(cell.settings["workers"], *cell.args[1:]) for cell in found} == {
        (size, "none", str(rate)) for size in (2, 3) for rate in (1, 2, 3)
    }
    assert len(found) == 6


def test_nobody_is_slow_without_compute_s_either(tmp_path: Path) -> None:
    (cell, *_) = cells(tmp_path, HEAD + RUN.replace("compute_s = 0.1", 'stragglers = "none"') + GRID + REPORT)
    assert cell.config.stragglers == "none"


def test_an_edited_script_makes_new_cells(tmp_path: Path) -> None:
    before = cells(tmp_path, HEAD + RUN + GRID + REPORT)
    experiment = read_experiment(tmp_path / "e.toml")
    (tmp_path / "train.py").write_text("1")
    after = final_cells(experiment, tmp_path, {name: {} for name in arms(experiment)})
    assert not {cell.id for cell in before} & {cell.id for cell in after}


def test_arms_of_one_name_are_refused(tmp_path: Path) -> None:
    text = HEAD.replace("{width}", "{a}{b}") + RUN + '[grid]\na = ["", "x"]\nb = ["", "x"]\nlr = [0.1]\n' + REPORT
    with pytest.raises(ConfigError, match="got two arms called 'x'"):
        cells(tmp_path, text)
