"""The experiments that no other test runs: in their smallest size, so that none can rot."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import ps
from experiments import local_steps

PARAMETER_BYTES = 4 * (5 * 16 + 128 * 128 + 128 + 128 * 5 + 5)  # of the network, for five letters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of 3000 letters, five different ones."""
    letters = np.random.default_rng(1).choice(list("abcd\n"), 3000)
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text("".join(letters))
    return tmp_path


def test_local_steps_push_one_hth_of_the_bytes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    smallest = ["--steps", "20", "--seeds", "1", "--rates", "0.01", "--processes", "1"]
    local_steps.main(["--data", str(folder), *smallest])
    rows = re.findall(
        r"^\| (\S[^|]*?) \|.*\| ([\d,]+) \(1/\S+\) \| ([\d,]+) \|$", capsys.readouterr().out, re.MULTILINE
    )
    alike = {name: int(pushed.replace(",", "")) for name, pushed, _ in rows[:6]}
    whole = 4 * PARAMETER_BYTES  # one push of four workers
    assert list(alike.values()) == [20 * whole, 20 * whole, 2 * whole, whole, whole, whole]
    turns = [int(pushed.replace(",", "")) for name, pushed, _ in rows if "fragment" in name]
    assert turns == [whole] * 4, "whoever's turn it is, all is pushed once"
    seconds = [int(virtual) for name, _, virtual in rows if name == "delayed"]
    assert seconds == [10, 20, 10, 20], "equal steps take half of the time, twice as many as long, per outer momentum"


def test_the_gradients_of_the_network_are_its_differences(folder: Path) -> None:
    text = local_steps.Text.of(folder)
    text.train, places = text.test, np.arange(len(text.test) - local_steps.CONTEXT)
    values = {name: value.astype(np.float64) for name, value in text.initial(1).items()}
    grads = text.gradients(values, places)
    for name, value in values.items():
        flat, step = value.reshape(-1), 1e-5
        for place in (0, flat.size // 2, flat.size - 1):
            before = flat[place]
            losses = []
            for moved in (before + step, before - step):
                flat[place] = moved
                losses.append(text.loss(values))
            flat[place] = before
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(grads[name].reshape(-1)[place], abs=1e-7), name


def test_a_worker_reads_its_data_before_it_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(local_steps.__file__).parent))
    script, order = importlib.import_module("mnist"), []

    def connect() -> None:
        order.append("joins")
        raise ps.StoppedError("enough")

    monkeypatch.setattr(script, "mnist", lambda folder: order.append("reads"))
    monkeypatch.setattr(ps, "connect", connect)
    monkeypatch.setattr(sys, "argv", ["mnist.py"])
    with pytest.raises(ps.StoppedError):
        script.main()
    assert order == ["reads", "joins"]
