"""What an agent runs: scripts of its directory, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ps.errors import ConfigError
from ps.launch.agent import script_in


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = (tmp_path / "scripts").resolve()
    (home / "deep").mkdir(parents=True)
    (home / "train.py").touch()
    (home / "deep/train.py").touch()
    (tmp_path / "other.py").touch()
    (home / "inside.py").symlink_to(home / "deep/train.py")
    (home / "outside.py").symlink_to(tmp_path / "other.py")
    (home / "up").symlink_to(tmp_path)
    (home / "round.py").symlink_to(home / "round.py")
    return home


def test_scripts_of_its_directory(home: Path) -> None:
    assert script_in(home, "train.py") == script_in(home, str(home / "train.py")) == home / "train.py"
    assert script_in(home, "./deep/train.py") == script_in(home, "inside.py") == home / "deep/train.py"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("../other.py", "with a `..`; name it from that directory"),
        ("deep/../train.py", "with a `..`; name it from that directory"),
        ("/etc/passwd", "got '/etc/passwd', which is /etc/passwd; put it there, or start the agent with another --dir"),
        ("outside.py", "got 'outside.py', which is "),
        ("up/other.py", "got 'up/other.py', which is "),
        ("round.py", "got 'round.py' "),
        ("deep", "got the folder '"),
        ("trian.py", "which does not exist; did you mean "),
        ("-c", "-c', which does not exist; put it there"),
        ("a\0b", "got 'a\\x00b' ("),
        ("", "got the folder '"),
    ],
)
def test_what_is_not_there_or_elsewhere_is_named_with_the_host(home: Path, script: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as raised:
        script_in(home, script)
    assert re.match(r"the agent on \S+: SCRIPT: expected a Python file", str(raised.value))
