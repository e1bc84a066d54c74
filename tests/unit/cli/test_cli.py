"""`psctl` as it is typed: flags, help, and one line for what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ps
from ps.cli import main as cli
from ps.cli import run as command
from ps.config import SPELLED, RunConfig
from ps.launch.options import RunOptions

CHECKOUT = Path(__file__).resolve().parents[3]


def psctl(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(argv))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunOptions]:
    """What `run_cluster` was called with; it runs nothing and gives 7."""
    calls: list[RunOptions] = []

    def run_cluster(options: RunOptions) -> int:
        calls.append(options)
        return 7

    monkeypatch.setattr(command, "run_cluster", run_cluster)
    return calls


def test_flags_after_the_script_are_its_own(capsys: pytest.CaptureFixture[str], asked: list[RunOptions]) -> None:
    ours = ["--servers", "2", "--consistency=ssp:staleness=3", "--save", "m.st", "--max-restarts", "3", "--quiet"]
    assert psctl(capsys, "run", *ours, "train.py", "--servers", "9", "--", "-x")[0] == 7
    assert asked == [
        RunOptions(
            script="train.py",
            args=("--servers", "9", "--", "-x"),
            config={"servers": "2", "consistency": "ssp:staleness=3"},
            save="m.st",
            max_restarts=3,
            quiet=True,
        )
    ]


def test_every_option_of_a_run_is_a_flag(capsys: pytest.CaptureFixture[str], asked: list[RunOptions]) -> None:
    assert set(command.CONFIG_HELP) == set(SPELLED)
    given = {name: f"<{name}>" for name in SPELLED}
    flags = [part for name, text in given.items() for part in (f"--{name.replace('_', '-')}", text)]
    assert psctl(capsys, "run", *flags, "train.py")[0] == 7
    assert asked[0].config == given and asked[0] == RunOptions(script="train.py", config=given)


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["run", "--bogus", "3", "train.py"], "psctl run: No such option: --bogus; see psctl run --help"),
        (["run"], "psctl run: Missing argument 'SCRIPT'; see psctl run --help"),
        (["run", "--servers"], "psctl run: Option '--servers' requires an argument; see psctl run --help"),
        (["run", "no_such.py"], "psctl run: SCRIPT: expected a Python file, got 'no_such.py', which does not exist"),
        (["run", "/"], "psctl run: SCRIPT: expected a Python file, got the folder '/'"),
        (["run", "--optimizer", "sdg", __file__], "psctl run: --optimizer: expected one of adagrad, "),
        (["run", "--seed", "x", __file__], "psctl run: --seed: expected a valid integer"),
        (["run", "--max-restarts", "x", __file__], "psctl run: Invalid value for '--max-restarts': "),
        (["status"], "psctl status: Missing argument 'HOST:PORT'; see psctl status --help"),
        (["stop", "here"], "psctl stop: controller: expected host:port of a controller, got 'here'"),
        (["server", "--controller", "x"], "psctl server: --controller: expected host:port of a controller, got 'x'"),
        (["server", "--controller", "h:1", "--listen", "h"], "psctl server: --listen: expected host:port, got 'h'"),
        (["server", "--controller", "h:1", "--listen", "h:0"], "psctl server: --listen: expected a loopback address"),
        (
            ["server", "--controller", "h:1", "--listen", "0.0.0.0:0", "--insecure"],
            "psctl server: --advertise: expected the host that others dial, as --listen 0.0.0.0:0 is none; name it",
        ),
        (["server"], "psctl server: --controller: expected host:port of a controller, got none; give it, or set PS_"),
        (["worker", "--controller", "h:1", "no_such.py"], "psctl worker: SCRIPT: expected a Python file, got"),
        (["worker"], "psctl worker: --controller: expected host:port of a controller, got none; give it, or set PS_"),
        (["worker", "--controller", "h"], "psctl worker: --controller: expected host:port of a controller, got 'h'"),
        (
            ["worker", "--controller", "h:1", "--directory", "none"],
            "psctl worker: --directory: expected a folder with scripts, got 'none', which is none",
        ),
        (
            ["worker", "--controller", "h:1", "--directory", ".", __file__],
            "psctl worker: --directory: expected no SCRIPT beside it, as it is for an agent, got ",
        ),
        (
            ["worker", "--controller", "h:1", "--", "torchrum", "train.py"],
            "psctl worker: COMMAND: expected a program in PATH or a path to one, got 'torchrum', which is none; a",
        ),
        (
            ["worker", "--controller", "h:1", "--", "/"],
            "psctl worker: COMMAND: expected a program in PATH or a path to",
        ),
        (["worker", "--controller", "h:1", "--"], "psctl worker: Invalid value: expected a command after --, got none"),
        (
            ["worker", "--controller", "h:1", "--log-dir", "x", "--", "true"],
            "psctl worker: --log-dir: expected no COMMAND beside it, as it is for an agent, got 'true'; leave one of",
        ),
        (
            ["worker", "--controller", "h:1", "none.py", "--", "true"],
            "psctl worker: SCRIPT: expected a Python file, got",
        ),
        (["submit", "train.py"], "psctl submit: --controller: expected host:port of a controller, got none; give it,"),
        (["submit", "--controller", "h:x", "train.py"], "psctl submit: --controller: expected host:port of a contr"),
        (["submit", "--controller", "h:1"], "psctl submit: Missing argument 'SCRIPT'; see psctl submit --help"),
        (["submit", "--detatch", "train.py"], "psctl submit: No such option: --detatch"),
        (["controller", "--save", "/"], "psctl controller: --save: expected a file to write, got the folder '/'"),
        (
            ["controller", "--servers", "collocated"],
            "psctl controller: --servers: expected a number >= 1, or colocated, got 'collocated'",
        ),
        (["controller", "--host", "::"], "psctl controller: --host: expected a loopback address such as 127.0.0.1"),
        (["controller", "--workers", "0"], "psctl controller: --workers: expected greater than or equal to 1"),
        (["controller", "--stop-after", "5"], "psctl controller: --stop-after: expected 10epochs, 5000clocks or"),
        (
            ["controller", "--key", "none"],
            "psctl controller: --key: none: expected a key file, got No such file or dire",
        ),
        (["run", "--key", "/", __file__], "psctl run: --key: /: expected a key file, got "),
        (["stop", "--key", __file__, "h:1"], f"psctl stop: --key: {__file__}: expected a file that only its owner may"),
        (["key", __file__], f"psctl key: {__file__}: expected a name that is free, got a file that exists; choose an"),
        (["walk"], "psctl: No such command 'walk'; see psctl --help"),
    ],
)
def test_mistakes_are_one_line_and_code_2(capsys: pytest.CaptureFixture[str], argv: list[str], text: str) -> None:
    code, out, err = psctl(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(text)


def test_a_script_that_is_misspelled_is_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    assert psctl(capsys, "run", str(tmp_path / "trian.py"))[2].endswith(f"did you mean {tmp_path / 'train.py'}?\n")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = psctl(capsys, "run", "--help")
    assert code == 0 and out.count("  psctl run --") == 2
    for name in SPELLED:
        info = RunConfig.model_fields[name]
        assert f"--{name.replace('_', '-')} " in out
        assert info.default is None or isinstance(info.default, (bool, float)) or f"{info.default}]" in out
    commands = psctl(capsys, "--help")[1]
    assert "run         Run SCRIPT on a cluster" in commands
    for name in ("controller", "server", "worker", "submit", "status", "stop", "key"):
        assert f"\n  {name} " in commands and psctl(capsys, name, "--help")[0] == 0
    assert psctl(capsys, "--version") == (0, f"psctl {ps.__version__}\n", "")


def test_the_command_itself_is_light() -> None:
    """`psctl --version` loads no arrays and no config."""
    code = "import sys; import ps.cli.main; print(*sorted({'numpy', 'pydantic', 'rich', 'grpc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, timeout=60)
    assert (done.stdout, done.stderr) == ("\n", "")
