"""`servers="colocated"` is as many shards as workers, wherever options of a run are given."""

from __future__ import annotations

from pathlib import Path

import pytest

import ps
from ps.colocated import counted
from ps.errors import ConfigError
from ps.launch.files import RunFile, read_file
from ps.launch.options import RunOptions


def test_it_is_a_number_for_everybody_else() -> None:
    assert counted({"servers": "colocated", "workers": "4"}) == {"servers": "4", "workers": "4"}
    assert counted({"servers": "colocated"}) == {"servers": 1}
    assert counted({"servers": "2", "workers": 4}) == {"servers": "2", "workers": 4}


def test_a_flag_a_key_a_variable_and_a_keyword(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RunOptions(__file__, config={"servers": "colocated", "workers": "3"})
    assert options.check()[0].servers == 3 and options.is_colocated
    (tmp_path / "run.toml").write_text('servers = "colocated"\n')
    assert read_file(str(tmp_path / "run.toml"), RunFile)[0] == {"servers": "colocated"}
    with ps.LocalCluster(servers="colocated", workers=3, seed=1) as cluster:
        assert cluster.config.servers == 3
    monkeypatch.setenv("PS_SERVERS", "colocated")
    with ps.connect() as client:
        assert client.size == 1


def test_another_word_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^--servers: expected a number >= 1, or colocated, got 'collocated'$"):
        RunOptions(__file__, config={"servers": "collocated"}).check()
    monkeypatch.setenv("PS_SERVERS", "beside")
    with pytest.raises(ConfigError, match="PS_SERVERS: servers: expected a number >= 1, or colocated, got 'beside'"):
        ps.connect()
