"""Files of recordings that are cut off, damaged, missing or others', and what `psctl replay` says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ps
from ps.cli.main import main
from ps.config import RunConfig
from ps.errors import ConfigError, Error
from ps.record.entries import End, file_of, packed, prefix_of
from ps.record.reader import Recording, recordings
from ps.record.replay import Replay
from ps.sim.loop import Simulator
from tests.recorded import MOMENTUM, one_slice, record, train
from tests.sim.helpers import end_scripts


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "tape"


def test_a_recording_that_is_cut_off_anywhere_is_replayed_up_to_there(tape: Path) -> None:
    record(tape, one_slice, servers=1, consistency="async")
    path = file_of(tape, 0)
    whole, ends = path.read_bytes(), list[int]()
    begin = whole.index(b"\n") + 1
    list(Recording(path).entries(ends.append))
    for place in (begin, begin + 1, ends[0], ends[9] - 1, ends[9], ends[9] + 5, ends[-2], ends[-1] - 1):
        path.write_bytes(whole[:place])
        outcome = Replay(Recording(path)).run()
        assert outcome.recorded is None
        assert outcome.records == sum(end <= place for end in ends), place
    path.write_bytes(whole[: begin - 1])
    with pytest.raises(ConfigError, match="expected a whole first line, got one that is cut off or damaged"):
        Recording(path)


def test_a_flipped_byte_is_always_found(tape: Path) -> None:
    record(tape, servers=1, workers=1)
    path = file_of(tape, 0)
    whole = bytearray(path.read_bytes())
    for place in [*range(0, 2000, 7), *range(2000, len(whole), 997), len(whole) - 1]:
        whole[place] ^= 0x10
        path.write_bytes(whole)
        with pytest.raises(Error, match=r"server-0\.record: (entry \d+, before byte \d+, is damaged|expected a )"):
            Replay(Recording(path)).run()
        whole[place] ^= 0x10


def test_a_killed_server_leaves_a_recording_of_what_it_had(tape: Path) -> None:
    config = RunConfig.check({"servers": 2, "workers": 2, "optimizer": MOMENTUM, "consistency": "async"})
    tape.mkdir()
    sim = Simulator(config, seed=1, record=tape)
    held: list[bytes] = []

    def kill() -> None:
        held.extend(sim.servers[1].values.contents())
        sim.kill_server(1)

    sim.at(0.06, kill)
    try:
        for rank in range(2):
            sim.run_worker(rank, train)
        sim.run()
    finally:
        end_scripts(sim)
        sim.close()
    replays = [Replay(one) for one in recordings(tape)]
    first, second = [one.run() for one in replays]
    assert first.is_equal
    assert second.recorded is None and second.commits > 0
    assert replays[1].values.contents() == held


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            lambda tape: file_of(tape, 1).unlink(),
            "server-1.record: expected the recording of a server, got No ",
        ),
        (lambda tape: file_of(tape, 1).write_bytes(b"x" * 999), "server-1.record: expected a recording of psctl run"),
        (
            lambda tape: file_of(tape, 0).write_bytes(file_of(tape, 1).read_bytes()),
            "server-0.record: expected server 0 of the run of server-0.record, got another one's",
        ),
    ],
)
def test_files_that_are_missing_or_others_are_named(tape: Path, spoil: Callable[[Path], Any], text: str) -> None:
    record(tape)
    spoil(tape)
    with pytest.raises(ConfigError, match=text):
        recordings(tape)


def test_another_version_is_refused(tape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ps.record.entries.VERSION", 2)
    record(tape)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"server-0\.record: expected a recording of version 1, got version 2; "):
        recordings(tape)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"^record: expected a folder that does not exist yet, got .*; nothing is"):
        record(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ConfigError, match=r"^record: expected a folder that can be made, got .*: No such file"):
        record(tmp_path / "no" / "tape")


# ---- the command -----------------------------------------------------------------------------------------------------


def psctl(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *argv])
    return int(str(ended.value.code))


def test_the_command_compares_and_saves(tape: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ps.LocalCluster(servers=2, workers=3, consistency="async", optimizer=MOMENTUM, seed=1, record=tape) as cluster:
        cluster.run(train)
        values, checksum = cluster.pull(), cluster.checksum()
    capsys.readouterr()
    assert psctl(str(tape), "--save", str(tmp_path / "end.safetensors")) == 0
    *servers, staleness, last = capsys.readouterr().out.splitlines()
    for shard, line in enumerate(servers):
        assert line.startswith(f"server {shard}: ") and line.endswith(": equal")
    assert len(servers) == 2
    assert staleness.startswith("staleness in commits: 0: ") and last == f"all servers: checksum {checksum}"
    saved = load_file(tmp_path / "end.safetensors")
    assert saved.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(saved[name], value, strict=True)
    assert psctl(str(tape), "--lr", "0.01") == 0
    assert "not equal, as other options make it" in capsys.readouterr().out


def test_the_command_tells_a_difference_from_an_early_end(tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tape, servers=1)
    path, ends = file_of(tape, 0), list[int]()
    list(Recording(path).entries(ends.append))
    header, _ = packed(End(7), 1.0, ())
    cut = path.read_bytes()[: ends[-2]]
    path.write_bytes(cut + prefix_of(header, ()) + header)
    capsys.readouterr()
    assert psctl(str(tape)) == 1
    assert "checksum recorded 00000007, replayed " in capsys.readouterr().out
    path.write_bytes(cut)
    assert psctl(str(tape)) == 0
    assert f"ends at record {len(ends) - 1}; the rest is missing" in capsys.readouterr().out
    path.write_bytes(cut[:-1] + b"?")
    assert psctl(str(tape)) == 1
    assert capsys.readouterr().err.startswith(f"psctl replay: {path}: entry {len(ends) - 1}, before byte ")


def test_wrong_flags_are_one_line(tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tape)
    capsys.readouterr()
    for argv, text in (
        ((str(tape / "no"),), "expected the folder of a recording, made by psctl run --record, got none"),
        ((str(tape / "server-0.record"),), f"--record, got a file; give its folder, {tape}"),
        ((str(tape), "--lr", "fast"), "Invalid value for '--lr': "),
        ((str(tape), "--save", str(tape)), "--save: expected a file to write, got the folder"),
        ((str(tape), "--optimizer", "sgd"), "--optimizer: "),
    ):
        assert psctl(*argv) == 2
        err = capsys.readouterr().err
        assert text in err and err.count("\n") == 1, err
