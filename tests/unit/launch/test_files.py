"""Option files: types and names are checked, and what is wrong is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ps.config import RunConfig
from ps.errors import ConfigError
from ps.launch.files import ControllerFile, RunFile, key_lines, read_file


def written(folder: Path, source: str | bytes) -> str:
    path = folder / "run.toml"
    path.write_bytes(source.encode() if isinstance(source, str) else source)
    return str(path)


def test_a_file_and_its_lines(tmp_path: Path) -> None:
    path = written(tmp_path, '# two\r\nservers = 2\r\n\r\n"lease_s" = inf\r\nsave = "m.st"\r\nclip_norm = 1\r\n')
    options, places = read_file(path, RunFile)
    assert options == {"servers": 2, "lease_s": float("inf"), "save": "m.st", "clip_norm": 1}
    assert places == {"servers": f"{path}:2", "lease_s": f"{path}:4", "save": f"{path}:5", "clip_norm": f"{path}:6"}
    assert read_file(written(tmp_path, ""), RunFile) == ({}, {})


def test_every_option_of_a_run_may_stand_in_a_file() -> None:
    own = {"save", "stop_after", "stop_when", "patience", "evaluator", "max_restarts", "log_dir", "log_to", "key"}
    assert set(RunFile.model_fields) == set(RunConfig.model_fields) | own | {"record"}
    assert set(ControllerFile.model_fields) == set(RunConfig.model_fields) | own - {"evaluator", "max_restarts"}


def test_what_looks_like_a_key_in_a_text_is_none() -> None:
    source = (
        'a = """\nservers = 1\n[table]\n"""\nservers = 2 # workers = 3\n\nb = [\n1,\n2]\nx.y = 1\n[t]\nz = 1\n[[u]]'
    )
    lines = key_lines(source)
    assert {name: lines[name] for name in ("a", "servers", "b", "x", "t", "u")} == {
        "a": 1, "servers": 5, "b": 7, "x": 10, "t": 11, "u": 13,
    }  # fmt: skip
    assert "workers" not in lines and "table" not in lines


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("servers = 1\nworkers = 0\n", ":2: workers: expected greater than or equal to 1, got 0"),
        ('seed = "1"', ":1: seed: expected a valid integer, got '1'"),
        ("servers = true", ":1: servers: expected a valid integer, got True"),
        ('on_worker_loss = "shrug"', ":1: on_worker_loss: expected 'wait' or 'drop', got 'shrug'"),
        ("max_restarts = -1", ":1: max_restarts: expected greater than or equal to 0, got -1"),
        ("stop_after = 600", ":1: stop_after: expected a valid string, got 600"),
        ('consistency = ["bsp"]', ":1: consistency: expected a valid string, got ['bsp']"),
        ("\n\nclip-norm = 1", ":3: clip-norm: expected clip_norm, or another of clip_norm, clip_value, "),
        ("quiet = true", ":1: quiet: expected one of clip_norm, "),
        ("\n[optimizer]\nlr = 0.1", ":2: optimizer: expected one value, optimizer = ..., got a table; "),
        ("optimizer.lr = 0.1", ":1: optimizer: expected one value, optimizer = ..., got a table; "),
        ("seed = 1\n[cluster]\nservers = 2", ":2: cluster: expected one of clip_norm, "),
        ("[[workers]]\na = 1", ":1: workers: expected one value, workers = ..., got a table; "),
        ("seed = 1\nservers 2\n", ":2:9: expected TOML, got none: Expected '=' after a key"),
        ("seed = 1\nseed = 2\n", ":2:9: expected TOML, got none: Cannot overwrite a value"),
        ('seed = 1\nsave = "x', ":2:10: expected TOML, got none: "),
        ("seed = ", ":1:8: expected TOML, got none: Invalid value"),
        (b"seed = 1\nsave = '\xff'\n", ":2:9: expected TOML in UTF-8, got the byte 0xff"),
    ],
)
def test_mistakes(tmp_path: Path, source: str | bytes, words: str) -> None:
    path = written(tmp_path, source)
    with pytest.raises(ConfigError) as raised:
        read_file(path, RunFile)
    assert str(raised.value).startswith(path + words) and "\n" not in str(raised.value)


def test_a_controller_restarts_nobody(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.toml:1: max_restarts: expected .*, got an unknown key"):
        read_file(written(tmp_path, "max_restarts = 1"), ControllerFile)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as raised:
            read_file(str(path), RunFile)
        assert str(raised.value) == f"{path}: expected a TOML file that can be read, got {words}"
