"""The rules for limits, memory, cores, clock and versions; that this machine can be looked at."""

from __future__ import annotations

import re
import socket
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from ps.doctor import loopback, machine, packages
from ps.doctor.finding import Finding, Level, look, problem
from ps.errors import DeadlineError
from ps.machine import limit_of

CHECKOUT = Path(__file__).resolve().parents[3]
GIB = 1 << 30
NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (machine.files_limit(4096, 4096), "ok", "limit 4096"),
        (machine.files_limit(-1, -1), "ok", "no limit"),
        (machine.files_limit(1024, -1), "warning", "ulimit -n 4096"),
        (machine.files_limit(1024, 2048), "warning", "which the hard limit 2048 does not allow"),
        (machine.shared_memory(2 * GIB), "ok", "2.0 GiB"),
        (machine.shared_memory(64 << 20), "warning", "64 MiB, expected 1.0 GiB or more; .*--shm-size"),
        (machine.shared_memory(None), "warning", "none"),
        (machine.memory(8 * GIB, 4 * GIB, None), "ok", "4.0 GiB of 8.0 GiB available"),
        (machine.memory(8 * GIB, GIB // 2, None), "warning", "512 MiB of 8.0 GiB available; a server holds"),
        (machine.memory(8 * GIB, 4 * GIB, GIB / 4), "warning", "this container may use 256 MiB"),
        (machine.cores(2, None), "ok", "2 usable"),
        (machine.cores(1, None), "warning", "share one"),
        (machine.cores(8, 1.5), "warning", "8 usable, of which this container may fill 1.5"),
        (machine.clock(NOW, 3600.0), "ok", "2026-09-21 14:13 UTC, on since 2026-09-21 13:13 UTC"),
        (machine.clock(30.0, 20.0), "warning", "1970-01-01 00:00 UTC, .*which cannot be; set it: timedatectl"),
        (machine.malloc(True, "glibc 2.36"), "ok", "glibc 2.36"),
        (machine.malloc(False, "musl"), "warning", "has no mallopt"),
        (packages.package("numpy", "1.26.0", "1.26"), "ok", "1.26.0"),
        (packages.package("numpy", "1.25.2", "1.26"), "problem", r"pip install --upgrade 'numpy>=1.26'"),
        (packages.package("grpcio", "1.100.0rc1", "1.60"), "ok", "1.100.0rc1"),
        (packages.package("libzmq", "4.2.5", "4.3"), "problem", "pip install --upgrade pyzmq"),
    ],
)
def test_rules(finding: Finding, level: Level, words: str) -> None:
    assert finding.level == level and re.search(words, str(finding)), finding
    assert (finding.remedy == "") == (level == "ok")


def test_limits_of_containers_are_read(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert limit_of("memory.max", tmp_path) == 1048576 and limit_of("cpu.max", tmp_path) == 1.5
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert limit_of("memory.max", tmp_path) is limit_of("cpu.max", tmp_path) is None
    assert limit_of("nothing", tmp_path) is None


def test_the_oldest_versions_are_those_of_the_project() -> None:
    listed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest = dict(line.split(">=") for line in listed)
    assert {name: oldest[name] for name in packages.OLDEST if name in oldest} == {
        name: version for name, version in packages.OLDEST.items() if name in oldest
    }
    assert len(packages.OLDEST.keys() & oldest.keys()) >= 4


def test_a_package_that_is_missing_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "msgpack":
            raise metadata.PackageNotFoundError(name)
        return "999.0"

    monkeypatch.setattr(metadata, "version", version)
    bad = [finding for finding in packages.packages() if finding.level != "ok"]
    assert bad == [problem("msgpack", "not installed", "pip install 'msgpack>=1.0'")]


def test_this_machine_can_be_looked_at() -> None:
    found = [*packages.python(), *packages.packages(), *packages.kernels(), *machine.limits(), *machine.clocks()]
    assert [finding for finding in found if finding.level == "problem"] == []
    assert {"Python", "numpy", "libzmq", "kernels", "open files", "/dev/shm", "memory", "cores", "malloc", "clock"} <= {
        finding.what for finding in found
    }
    (computing,) = [finding.found for finding in found if finding.what == "kernels"]
    assert computing.startswith(("native (", "NumPy twins: "))


def test_both_planes_work_over_loopback() -> None:
    (data,), (control,) = loopback.data_plane(), loopback.control_plane()
    assert re.fullmatch(r"\d+ us for a round trip over ZeroMQ on 127.0.0.1(, expected .*)?", data.found)
    assert control.level == "ok" and "answered over gRPC in" in control.found


def test_pings_have_a_deadline() -> None:
    assert loopback.ping_us(10_000_000, wait_s=0.05) is None


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server((loopback.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert str(loopback.port_free(port)).startswith(f"warning  port {port}: taken on 127.0.0.1 (Address already in")
    assert loopback.port_free(port).level == "ok"


@pytest.mark.parametrize("error", [ImportError("no zmq"), OSError("no\nroom"), DeadlineError("nobody")])
def test_a_check_that_cannot_be_made_is_a_problem(error: Exception) -> None:
    def check() -> list[Finding]:
        raise error

    (finding,) = look("planes", check)
    assert finding.level == "problem" and finding.remedy and len(str(finding).splitlines()) == 1


@pytest.mark.parametrize(
    ("twin", "asked", "level", "remedy"),
    [
        (False, None, "ok", ""),
        (True, None, "warning", "install a C++20 compiler"),
        (True, "twin", "warning", "unset it"),
    ],
)
def test_who_computes_is_told_and_what_would_be_faster(twin: bool, asked: str | None, level: str, remedy: str) -> None:
    finding = packages.computing("avx2", twin, asked, "1 ns")
    assert finding.level == level and remedy in finding.remedy
