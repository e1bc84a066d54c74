"""`--config FILE`: flags win over the file, and what is wrong in it is one line with its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ps.cli import controller as controller_command
from ps.cli import main as cli
from ps.cli import run as command
from ps.config import RunConfig
from ps.control.hello import LinkEnd
from ps.keyspace import Options
from ps.launch.daemon import ControllerOptions
from ps.launch.options import RunOptions
from ps.launch.rules import StopAfter

FILE = """
servers = 3
consistency = "ssp:staleness=3"
max_restarts = 2
stop_after = "5clocks"
log_dir = "logs"
"""


def psctl(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(argv))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def test_flags_of_a_run_win(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    asked: list[RunOptions] = []

    def run_cluster(options: RunOptions) -> int:
        asked.append(options)
        return 7

    monkeypatch.setattr(command, "run_cluster", run_cluster)
    flags = ["--servers", "1", "--log-dir", "elsewhere", "--max-restarts", "0"]
    assert psctl(capsys, "run", "--config", str(path), *flags, "train.py", "--config", "its own")[0] == 7
    assert asked == [
        RunOptions(
            script="train.py",
            args=("--config", "its own"),
            config={"servers": "1", "consistency": "ssp:staleness=3"},
            stop_after="5clocks",
            max_restarts=0,
            log_dir="elsewhere",
            places={"consistency": f"{path}:3", "stop_after": f"{path}:5"},
        )
    ]


def test_flags_of_a_controller_win(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    asked: list[Any] = []

    def run_controller(*given: Any) -> int:
        asked.append(given)
        return 0

    monkeypatch.setattr(controller_command, "run_controller", run_controller)
    path.write_text(
        'servers = 3\nworkers = 4\nstop_after = "5clocks"\nsave = "m.st"\nlog_dir = "x"\nlog_to = "jsonl,tensorboard"\n'
    )
    assert psctl(capsys, "controller", "--config", str(path), "--servers", "2", "--port", "0")[0] == 0
    options = ControllerOptions("127.0.0.1", 0, save="m.st", log_dir="x", quiet=False)
    ((config, rules, sinks, given),) = asked
    assert (config, rules, given) == (RunConfig(servers=2, workers=4), [StopAfter(5, "clocks")], options)
    assert list(sinks) == ["jsonl", "tensorboard"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("bogus = 1", ":1: bogus: expected one of clip_norm, "),
        ("\nservers = 0", ":2: servers: expected greater than or equal to 1, got 0\n"),
        ('\noptimizer = "sdg"', ":2: optimizer: expected one of adagrad, "),
        ('optimizer = "sgd:lr=0.1,lr=2"', ":1: optimizer: 'sgd:lr=0.1,lr=2': option 'lr' stands twice; keep one\n"),
        ('stop_after = "5"', ":1: stop_after: expected 10epochs, 5000clocks or 600s, got '5'\n"),
        ("servers = ", ":1:11: expected TOML, got none: Invalid value\n"),
    ],
)
@pytest.mark.parametrize("run", [True, False])
def test_mistakes_are_one_line_with_their_place(
    capsys: pytest.CaptureFixture[str], path: Path, source: str, words: str, run: bool
) -> None:
    path.write_text(source)
    name, *script = ["run", __file__] if run else ["controller"]
    code, out, err = psctl(capsys, name, "--config", str(path), *script)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"psctl {name}: {path}{words}")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('evaluator = "none.py"', ":1: evaluator: expected a Python file, got 'none.py', which does not exist\n"),
        ('save = "/"', ":1: save: expected a file to write, got the folder '/'\n"),
    ],
)
def test_files_that_a_file_names(capsys: pytest.CaptureFixture[str], path: Path, source: str, words: str) -> None:
    path.write_text(source)
    code, out, err = psctl(capsys, "run", "--config", str(path), __file__)
    assert (code, out, err) == (2, "", f"psctl run: {path}{words}")


def test_a_flags_mistake_stays_the_flags(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    code, _, err = psctl(capsys, "run", "--config", str(path), "--consistency", "bps", __file__)
    assert code == 2 and err.startswith("psctl run: --consistency: expected one of ")


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    for name, script in (("run", [__file__]), ("controller", [])):
        code, _, err = psctl(capsys, name, "--config", "no.toml", *script)
        words = "no.toml: expected a TOML file that can be read, got No such file or directory"
        assert (code, err) == (2, f"psctl {name}: {words}\n")


SERVER = """
listen = "0.0.0.0:7071"
advertise = "host4"
insecure = true
controller = "host1:7070"
"""


def test_a_file_for_a_server(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setenv("PS_CONTROLLER", "")  # what the command sets is taken back
    monkeypatch.delenv("PS_CONTROLLER")

    def serve(listen: str, advertise: str, by: object) -> LinkEnd:
        asked.append((os.environ["PS_CONTROLLER"], listen, advertise))
        return LinkEnd("all workers are done", failed=False, gone=False)

    monkeypatch.setattr("ps.launch.server.serve", serve)
    path.write_text(SERVER)
    assert psctl(capsys, "server", "--config", str(path)) == (0, "", "psctl server: all workers are done\n")
    assert psctl(capsys, "server", "--config", str(path), "--listen", "127.0.0.1:0", "--controller", "host2:1")[0] == 0
    assert asked == [("host1:7070", "0.0.0.0:7071", "host4"), ("host2:1", "127.0.0.1:0", "host4")]


def test_a_file_for_an_agent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.delenv("PS_CONTROLLER", raising=False)

    def run_agent(*given: str | None) -> int:
        asked.append(given)
        return 7

    monkeypatch.setattr("ps.launch.agent.run_agent", run_agent)
    path.write_text(f'controller = "host1:7070"\ndirectory = "{path.parent}"\nlog_dir = "logs"\n')
    assert psctl(capsys, "worker", "--config", str(path), "--log-dir", "x")[0] == 7
    assert asked == [("host1:7070", str(path.parent), "x", None)]


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("server", 'controller = "host1"', ":1: controller: expected host:port of a controller, got 'host1'\n"),
        ("server", "\ncontroller = 7070", ":2: controller: expected a valid string, got 7070\n"),
        ("server", 'insecure = "yes"', ":1: insecure: expected a valid boolean, got 'yes'\n"),
        ("server", 'controller = "h:1"\nlisten = "h"', ":2: listen: expected host:port, got 'h'\n"),
        ("server", 'controller = "h:1"\nlisten = "h:0"', ":2: listen: expected a loopback address such as "),
        ("server", "workers = 2", ":1: workers: expected one of advertise, controller, insecure, key, listen, got an"),
        ("worker", "controler = 1", ":1: controler: expected controller, or another of controller, directory, key, "),
        ("worker", "directory = ", ":1:13: expected TOML, got none: Invalid value\n"),
        ("worker", 'controller = "h:1"\ndirectory = "none"', ":2: directory: expected a folder with scripts, got "),
        ("worker", "[worker]", ":1: worker: expected one of controller, directory, key, log_dir, got an unknown"),
        ("server", 'controller = "h:1"\nkey = "none"', ":2: key: none: expected a key file, got No such file or d"),
        ("worker", 'controller = "h:1"\nkey = "none"', ":2: key: none: expected a key file, got No such file or d"),
    ],
)
def test_mistakes_in_files_of_servers_and_workers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: Path, name: str, source: str, words: str
) -> None:
    monkeypatch.delenv("PS_CONTROLLER", raising=False)
    path.write_text(source)
    code, out, err = psctl(capsys, name, "--config", str(path))
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"psctl {name}: {path}{words}"), err


PARAMETERS = """
compression = "onebit"

[[parameters]]
match = "*.bias"
push_compression = "none"

[[parameters]]
match = "embedding"
lr_scale = {lr_scale}
"""


def test_a_file_says_what_holds_for_parameters_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[RunOptions] = []
    monkeypatch.setattr(command, "run_cluster", lambda options: asked.append(options) or 0)  # type: ignore[func-returns-value,redundant-expr]
    path = tmp_path / "run.toml"
    path.write_text(PARAMETERS.format(lr_scale=2.0))
    assert psctl(capsys, "run", "--config", str(path), "train.py")[0] == 0
    config = RunConfig.check(dict(asked[0].config))
    assert config.options_of("l1.bias", Options()) == Options(push_compression="none")
    assert config.options_of("embedding", Options()) == Options(lr_scale=2.0)


def test_a_wrong_table_of_parameters_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(PARAMETERS.format(lr_scale=-1.0))
    code, _, error = psctl(capsys, "run", "--config", str(path), "train.py")
    assert code == 2
    assert f"{path}:4: parameters.1.lr_scale: expected greater than or equal to 0, got -1.0" in error
