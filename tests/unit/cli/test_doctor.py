"""`psctl doctor` as it is typed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ps.cli import main as cli
from ps.doctor import examine
from ps.doctor.finding import Finding, ok, problem, warning
from ps.key import make_key, read_key
from tests.unit.control.peers import Cluster

CHECKOUT = Path(__file__).resolve().parents[3]
KEYLESS = "ok       key: none in use: a cluster without one is for loopback, or --insecure\n"


def doctor(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", *argv])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """All that the machine's only check finds; no port is looked at."""
    findings: list[Finding] = []
    monkeypatch.delenv("PS_CONTROLLER", raising=False)
    monkeypatch.delenv("PS_KEY", raising=False)
    monkeypatch.setattr(examine, "MACHINE", {"everything": lambda: findings})
    monkeypatch.setattr(examine, "port_free", lambda port: ok(f"port {port}", "free"))
    return findings


def test_warnings_are_no_failure(capsys: pytest.CaptureFixture[str], found: list[Finding]) -> None:
    found += [ok("cores", "8"), warning("memory", "little", "buy some")]
    lines = "ok       cores: 8\nwarning  memory: little; buy some\nok       port 7070: free\n"
    assert doctor(capsys) == (0, lines + KEYLESS, "")


def test_a_problem_is(capsys: pytest.CaptureFixture[str], found: list[Finding]) -> None:
    found += [problem("numpy", "none", "pip install numpy")]
    assert doctor(capsys)[:2] == (1, "problem  numpy: none; pip install numpy\nok       port 7070: free\n" + KEYLESS)
    code, out, err = doctor(capsys, "--json")
    first = {"level": "problem", "what": "numpy", "found": "none", "remedy": "pip install numpy"}
    assert (code, err) == (1, "") and json.loads(out)["problems"] == 1 and json.loads(out)["findings"][0] == first


def test_a_terminal_sees_what_is_looked_at(
    capsys: pytest.CaptureFixture[str], found: list[Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, out, err = doctor(capsys)
    assert out == "ok       port 7070: free\n" + KEYLESS
    assert err.startswith("\r\x1b[Klooking at everything ...\r\x1b[K") and err.endswith("\r\x1b[K")


def test_the_controller_is_named_by_flag_or_variable(
    capsys: pytest.CaptureFixture[str], found: list[Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cluster() as cluster:
        first = KEYLESS + rf"ok       controller: tried {re.escape(cluster.server.address)}: reached after \d+\.\d ms\n"
        assert re.match(first, doctor(capsys, "--controller", cluster.server.address)[1])
        monkeypatch.setenv("PS_CONTROLLER", cluster.server.address)
        code, out, _ = doctor(capsys)
        assert code == 0 and re.match(first, out) and "warning  server 0: not there yet; " in out
    code, out, _ = doctor(capsys)
    assert code == 1 and out.startswith(
        f"{KEYLESS}problem  controller: tried {cluster.server.address}: Connection refused"
    )


def test_packages_that_are_broken_do_not_keep_it_from_the_rest() -> None:
    """It runs where typer does: that is what it is for."""
    gone = ("numpy", "zmq", "grpc", "google", "msgpack")
    code = f"import sys; sys.modules.update(dict.fromkeys({gone})); import ps.cli.main as c; c.main(['doctor'])"
    env = {name: text for name, text in os.environ.items() if name != "PS_CONTROLLER"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, timeout=60, env=env
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    bad = [line.partition(":")[0].split()[1:] for line in lines if line.startswith("problem")]
    assert bad == [["packages"], ["kernels"], ["data", "plane"], ["control", "plane"]], done.stdout
    assert {"limits", "malloc:", "clock:"} & {line.split()[1] for line in lines} == {"malloc:", "clock:"}


def test_a_wrong_address_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = doctor(capsys, "--controller", "here")
    assert (code, out, err) == (2, "", "psctl doctor: --controller: expected host:port, got 'here'\n")
    assert "Check this machine" in doctor(capsys, "--help")[1]


def test_all_of_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PS_CONTROLLER", raising=False)
    code, out, err = doctor(capsys)
    assert code == 0 and err == "" and "kernels: " in out
    assert all(re.match(r"(ok     |warning)  \S.*: \S", line) for line in out.splitlines()), out


def test_the_key_is_named(
    capsys: pytest.CaptureFixture[str], found: list[Finding], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_key(file := str(tmp_path / "key"))
    assert f"ok       key: {file} in use: " in doctor(capsys, "--key", file)[1]
    with Cluster(key=read_key(file)) as cluster:
        monkeypatch.setenv("PS_CONTROLLER", cluster.server.address)
        code, out, _ = doctor(capsys)
        assert code == 1 and "problem  status: controller at " in out, out
        assert "expected one without a key, got one with a key; give the same --key FILE" in out
        monkeypatch.setenv("PS_KEY", file)
        code, out, _ = doctor(capsys)
        assert code == 0 and "warning  server 0: not there yet; " in out, out
    os.chmod(file, 0o640)
    code, out, _ = doctor(capsys)
    assert code == 1 and out.endswith(f"chmod 600 {file}, and make a new key if somebody may have read it\n"), out
